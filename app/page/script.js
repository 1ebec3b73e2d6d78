// The page: a client of the API. Addresses are relative, so that it works behind a prefix too.
// A picture is shown from memory; nothing is kept in the browser, the API key neither.

import { makeAnswer, makeFacts, percent, positiveLabel, tellEmpty } from "./answer.js";
import { make, renderMarkdown } from "./card.js";
import { ask, checkFile, makeProblem, Problem } from "./service.js";

const byId = (id) => document.getElementById(id);
const state = { key: "", file: null, run: null, addresses: [] };

// --- from a file to its answer

function upload(path, signal) {
  const body = new FormData();
  body.append("file", state.file, "upload"); // a file's own name may tell who the patient is
  return ask(path, state.key, { method: "POST", body, signal });
}

async function read(file) {
  state.run?.abort();
  const run = new AbortController();
  Object.assign(state, { file, run });
  forgetPictures();
  showWaiting(file);
  const shown = showFile(file);
  try {
    await checkFile(file);
    const prediction = await (await upload("v1/predictions", run.signal)).json();
    if (run.signal.aborted) return;
    showPrediction(prediction);
    await showHeatmap(prediction, shown, run.signal).catch((error) => {
      if (!run.signal.aborted) showNoHeatmap(error);
    });
  } catch (error) {
    if (!run.signal.aborted) showProblem(error);
  } finally {
    if (state.run === run) showDone();
  }
}

async function showHeatmap(prediction, shown, signal) {
  const overlay = await picture("v1/heatmaps?opacity=1&legend=false", signal);
  if (!(await shown) || showsOtherwise(prediction)) {
    const plain = await picture("v1/heatmaps?opacity=0&legend=false", signal);
    if (!signal.aborted) await setPicture("xray", plain);
  }
  if (signal.aborted) return;
  await setPicture("overlay", overlay);
  showMeaning(prediction, isGray(byId("overlay")));
  blend();
}

// Where a browser would show other pixels than the service reads, the service's own are shown:
// a 12-bit detector's values in 16 bits, which would be black, and sides that are turned.
function showsOtherwise(prediction) {
  const { width, height } = prediction.image;
  const { naturalWidth, naturalHeight } = byId("xray");
  const scaled = prediction.warnings.some((warning) => warning.code === "bit-depth-inferred");
  return scaled || naturalWidth !== width || naturalHeight !== height;
}

async function picture(path, signal) {
  return (await upload(path, signal)).blob();
}

// --- pictures

function showFile(file) {
  byId("figure").hidden = false;
  byId("caption").hidden = true;
  return setPicture("xray", file);
}

async function setPicture(id, blob) {
  const image = byId(id);
  const address = URL.createObjectURL(blob);
  state.addresses.push(address);
  const works = await new Promise((resolve) => {
    image.addEventListener("load", () => resolve(true), { once: true });
    image.addEventListener("error", () => resolve(false), { once: true });
    image.src = address;
  });
  if (image.src !== address) return works; // another one has taken its place
  image.hidden = !works;
  if (works) byId("no-picture").hidden = true;
  return works;
}

// Nothing of the file before stays beside what is told instead.
function forgetFile() {
  state.run?.abort();
  state.file = null;
  forgetPictures();
  byId("figure").hidden = true;
  byId("choice-title").textContent = "Drop one frontal chest X-ray here";
  document.body.classList.remove("chosen");
}

function forgetPictures() {
  for (const id of ["xray", "overlay"]) {
    byId(id).removeAttribute("src");
    byId(id).hidden = true;
  }
  state.addresses.splice(0).forEach((address) => URL.revokeObjectURL(address));
}

// An X-ray has no color: what has some is the heatmap.
function isGray(image) {
  const side = 64;
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue] = data.subarray(at, at + 3);
    if (Math.max(red, green, blue) - Math.min(red, green, blue) > 8) return false;
  }
  return true;
}

// At full strength the overlay is color × heat + X-ray × (1 - heat); laid over the X-ray with an
// opacity it is just what the service draws for that opacity.
function blend() {
  const value = byId("opacity").value;
  const shown = byId("show").checked;
  byId("overlay").style.opacity = shown ? value / 100 : 0;
  byId("opacity-value").value = `${value}%`;
  byId("opacity").disabled = !shown;
}

// --- what is shown beside

function show(...elements) {
  byId("content").replaceChildren(...elements);
}

function say(text) {
  byId("status").textContent = text;
}

function showWaiting(file) {
  document.body.classList.add("chosen");
  byId("choice-title").textContent = file.name;
  byId("file-label").textContent = "Choose another file";
  byId("nothing").hidden = true;
  byId("waiting").hidden = false;
  byId("answer").setAttribute("aria-busy", "true");
  byId("no-picture").hidden = true;
  say("Reading the X-ray.");
  show();
}

function showDone() {
  byId("waiting").hidden = true;
  byId("answer").setAttribute("aria-busy", "false");
}

function showPrediction(prediction) {
  const positive = positiveLabel(prediction);
  showDone();
  hideKeyForm();
  showServing(prediction.model);
  show(...makeAnswer(prediction, makeModelLinks(prediction.model)));
  const empty = tellEmpty(prediction);
  const said = prediction.warnings.map((warning) => ` Warning: ${warning.detail}`).join("");
  say(`The model says ${prediction.label}. ${empty}${empty && " "}${positive}: probability ` +
    `${percent(prediction.probabilities[positive])}, threshold ${percent(prediction.decision_threshold)}.${said}`);
}

function showMeaning(prediction, isEmpty) {
  const [positive, other] = Object.keys(prediction.probabilities);
  byId("meaning").textContent = isEmpty
    ? `The heatmap is empty: nothing in this X-ray counted for ${positive} against ${other}.`
    : `The brighter, the more it counted for ${positive} against ${other}, relative to this X-ray's own ` +
      "maximum. It is coarse (7 × 7 cells), and tells where this network looked, not where a disease is.";
  byId("overlay").alt = isEmpty ? "" : `Heatmap: what counted for ${positive} against ${other}`;
  byId("controls").hidden = isEmpty;
  byId("scale").hidden = isEmpty;
  byId("caption").hidden = false;
}

// The answer stands without its picture.
function showNoHeatmap(error) {
  if (!(error instanceof Problem)) throw error;
  byId("meaning").textContent = `There is no heatmap. ${error.content.title}. ${error.content.detail}`;
  byId("controls").hidden = true;
  byId("scale").hidden = true;
  byId("caption").hidden = false;
  byId("no-picture").hidden = !byId("xray").hidden;
}

// --- problems

const ADVICE = {
  "not-a-chest-radiograph": "The model knows upright frontal chest X-rays only; what it would say of anything else means nothing.",
  "unreadable-image": "The file seems to be damaged. Export it again.",
  overloaded: "The service has more to do than it can at the moment.",
  "not-ready": "The service is starting or stopping.",
};

function showProblem(error) {
  if (!(error instanceof Problem)) throw error;
  const { content } = error;
  showDone();
  byId("nothing").hidden = true;
  if (content.status === 401) {
    showKeyForm();
    return;
  }
  hideKeyForm();
  const rows = content.expected ? [["Expected", content.expected], ["Received", content.received]] : [["Reason", content.detail]];
  const box = make("div", { className: "problem" }, make("h3", {}, `${content.title}.`), makeFacts(rows));
  if (ADVICE[content.code]) box.append(make("p", {}, ADVICE[content.code]));
  if (content.status) box.append(make("p", { className: "help" }, `Status ${content.status}, ${content.code ?? "no code"}`));
  const mayPass = content.mayPass || content.status >= 500 || [408, 429].includes(content.status);
  if (mayPass) box.append(makeAgain(error.retryAfter));
  show(box);
  byId("no-picture").hidden = !byId("xray").hidden;
  say(`No answer. ${content.title}. ${content.detail}`);
}

function makeAgain(seconds) {
  const button = make("button", { type: "button" }, "Try again");
  button.addEventListener("click", () => (state.file ? read(state.file) : askModelAgain()));
  const hint = seconds ? make("span", { className: "help" }, ` A place should be free in ${seconds} s.`) : "";
  return make("p", {}, button, hint);
}

function showKeyForm() {
  byId("key-form").hidden = false;
  tellKey(state.key ? "That API key was not accepted." : "");
  show();
  if (!state.key) say("An API key is needed.");
  if (state.file || state.key) byId("key").focus();
}

function hideKeyForm() {
  byId("key-form").hidden = true;
}

function tellKey(wrong) {
  byId("key-wrong").textContent = wrong;
  byId("key-wrong").hidden = !wrong;
  if (wrong) say(wrong);
}

async function useKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[!-~]+$/.test(key)) { // a header holds no other characters
    tellKey("An API key has letters, digits and ASCII signs only, and no space. Copy it again.");
    return;
  }
  state.key = key;
  if (!(await showModel())) return;
  hideKeyForm();
  showReady("The API key was accepted.");
}

async function askModelAgain() {
  if (await showModel()) showReady("The service answers.");
}

// Go on with the file that waits, or wait for one.
function showReady(text) {
  show();
  say(text);
  byId("nothing").hidden = Boolean(state.file);
  if (state.file) read(state.file);
  byId("answer-title").focus();
}

// --- the model

async function showModel() {
  try {
    const { models } = await (await ask("v1/models", state.key)).json();
    const serving = models.find((model) => model.state === "serving");
    if (serving) showServing(serving);
    return true;
  } catch (error) {
    showProblem(error);
    return false;
  }
}

function showServing(model) {
  const text = `${model.name}, version ${model.version} · `;
  if (byId("model").firstChild?.data === text) return; // a link beside it may have the focus
  byId("model").replaceChildren(text, ...makeModelLinks(model));
}

function makeModelLinks({ name, version }) {
  const address = `v1/models/${version}`;
  const card = makeLink("Model card", `${address}/card`, `Model card: ${name}, version ${version}`,
    async (response) => renderMarkdown(await response.text()));
  const manifest = makeLink("Manifest", address, `Manifest: ${name}, version ${version}`,
    async (response) => make("pre", {}, JSON.stringify(await response.json(), null, 2)));
  return [card, " · ", manifest];
}

// A link that the page itself follows, since only it can send the key.
function makeLink(text, address, title, render) {
  const link = make("a", { href: address }, text);
  link.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    await openDialog(title, address, render);
  });
  return link;
}

async function openDialog(title, address, render) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(make("p", { className: "help" }, "Loading …"));
  byId("dialog").showModal();
  try {
    byId("dialog-body").replaceChildren(await render(await ask(address, state.key)));
  } catch (error) {
    byId("dialog-body").replaceChildren(make("p", {}, error.message));
  }
}

// --- what a person does

function choose(files) {
  if (files.length === 1) read(files[0]);
  else if (files.length > 1) {
    forgetFile();
    showProblem(makeProblem("One file at a time", "one file", `${files.length} files`));
  }
}

byId("file").addEventListener("change", (event) => {
  choose(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    const over = kind === "dragenter" || kind === "dragover";
    document.body.classList.toggle("dragging", over);
    if (kind === "drop") choose(event.dataTransfer.files);
  });
}

byId("opacity").addEventListener("input", blend);
byId("show").addEventListener("change", blend);
byId("key-form").addEventListener("submit", useKey);
byId("dialog-close").addEventListener("click", () => byId("dialog").close());

showModel();
