// What a model card uses of Markdown, as elements of the page: headings, lists, tables, quotes,
// paragraphs, and in their text bold, code and links. Pictures, which no call gives, are left out.

const INLINE = /\*\*([^*]+)\*\*|`([^`]+)`|!\[[^\]]*\]\([^)]*\)|\[([^\]]+)\]\(([^)\s]+)\)/g;

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The title, which the place where the card is shown has too, is left out.
export function renderMarkdown(text) {
  const parts = document.createDocumentFragment();
  for (const block of text.replace(/^# .*\n/, "").split(/\n\s*\n/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    if (lines.length) parts.append(...renderBlock(lines));
  }
  return parts;
}

function renderBlock(lines) {
  const heading = /^(#{1,6})\s+(.*)/.exec(lines[0]);
  if (heading) {
    // The dialog's own heading is of the second level.
    const level = Math.min(6, Math.max(3, heading[1].length + 1));
    const rest = lines.slice(1);
    return [make(`h${level}`, {}, ...renderText(heading[2])), ...(rest.length ? renderBlock(rest) : [])];
  }
  if (lines[0].startsWith("|")) return [renderTable(lines)];
  if (lines[0].startsWith(">")) {
    const text = lines.map((line) => line.replace(/^>\s?/, "")).join(" ");
    return [make("blockquote", {}, ...renderText(text))];
  }
  if (/^\s*[-*]\s/.test(lines[0])) return [renderList(lines)];
  if (lines[0].startsWith("    ")) return [make("pre", {}, lines.join("\n"))];
  if (/^```/.test(lines[0])) {
    return [make("pre", {}, lines.filter((line) => !line.startsWith("```")).join("\n"))];
  }
  const text = renderText(lines.join(" "));
  return text.length ? [make("p", {}, ...text)] : [];
}

function renderList(lines) {
  const items = [];
  for (const line of lines) {
    const item = /^\s*[-*]\s+(.*)/.exec(line);
    if (item) items.push(item[1]);
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return make("ul", {}, ...items.map((item) => make("li", {}, ...renderText(item))));
}

function renderTable(lines) {
  const rows = lines.map((line) => line.trim().replace(/^\||\|$/g, "").split("|"));
  const [head, , ...body] = rows;
  const row = (cells, tag) => make("tr", {}, ...cells.map((cell) => make(tag, {}, ...renderText(cell.trim()))));
  const table = make("table", {}, make("thead", {}, row(head, "th")), make("tbody", {}, ...body.map((cells) => row(cells, "td"))));
  for (const cell of table.querySelectorAll("th")) cell.scope = "col";
  return make("div", { className: "table" }, table);
}

function renderText(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [all, bold, code, words, address] = found;
    if (found.index > at) parts.push(text.slice(at, found.index));
    if (bold) parts.push(make("strong", {}, ...renderText(bold)));
    else if (code) parts.push(make("code", {}, code));
    else if (words) parts.push(/^https?:/.test(address) ? make("a", { href: address, rel: "noreferrer" }, words) : words);
    at = found.index + all.length;
  }
  if (text.slice(at).trim()) parts.push(text.slice(at));
  return parts;
}
