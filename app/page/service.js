// How the service is asked, and what keeps it from answering.

const TIMEOUT_MS = 90_000;

export class Problem extends Error {
  constructor(content, retryAfter) {
    super(content.detail);
    this.content = content;
    this.retryAfter = retryAfter;
  }
}

export async function ask(path, key, options = {}) {
  const headers = key ? { "X-API-Key": key } : {};
  const limits = [AbortSignal.timeout(TIMEOUT_MS), ...(options.signal ? [options.signal] : [])];
  const request = { cache: "no-store", ...options, headers, signal: AbortSignal.any(limits) };
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const late = error.name === "TimeoutError";
    throw new Problem({
      mayPass: true,
      title: late ? "No answer came" : "The service cannot be reached",
      detail: late
        ? `Nothing came within ${TIMEOUT_MS / 1000} seconds.`
        : "The connection failed or broke off. The service may be down, or the file too large for it.",
    });
  }
  if (response.ok) return response;
  throw new Problem(await readProblem(response), Number(response.headers.get("Retry-After")) || 0);
}

async function readProblem(response) {
  try {
    return await response.json();
  } catch {
    const detail = `An answer with the status ${response.status}, without a reason.`;
    return { title: "The service gave no answer that can be used", detail, status: response.status };
  }
}

// A problem of the page's own, of which the service knows nothing.
export function makeProblem(title, expected, received) {
  return new Problem({ title, expected, received, detail: `Expected ${expected}; received ${received}.` });
}

// Else it would look as if the service could not be reached.
export async function checkFile(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw makeProblem("The file cannot be read", "a file",
      "a folder, or a file that has gone, has changed since it was chosen, or may not be read");
  }
}
