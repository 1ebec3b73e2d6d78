// What an answer says, as elements of the page.

import { make } from "./card.js";

export function makeAnswer(prediction, links) {
  return [
    makeVerdict(prediction),
    ...prediction.warnings.map((warning) => make("p", { className: "care" }, warning.detail)),
    makeSets(prediction.prediction_set),
    makeAcceptance(prediction.acceptance),
    makeDetails(prediction, links),
  ];
}

export function positiveLabel(prediction) {
  return Object.keys(prediction.probabilities)[0];
}

// The model's own word that it has no answer; empty where it has one.
export function tellEmpty({ prediction_set: sets }) {
  const empty = Object.keys(sets).filter((confidence) => !sets[confidence].length);
  if (!empty.length) return "";
  return `Take it as no answer at ${empty.join(" and ")} confidence: ` +
    "the model is less sure of either label than it usually is.";
}

function makeVerdict(prediction) {
  const positive = positiveLabel(prediction);
  const threshold = prediction.decision_threshold;
  const bars = Object.entries(prediction.probabilities).map(([label, probability]) =>
    makeBar(label, probability, label === positive ? threshold : null));
  const empty = tellEmpty(prediction);
  const rule = `The mark: ${positive} is said from ${percent(threshold)} upwards.`;
  return make("div", {},
    make("p", { className: "help" }, "The model says"),
    make("p", { className: "verdict", id: "verdict" }, prediction.label),
    ...(empty ? [make("p", { className: "care" }, empty)] : []),
    ...bars,
    make("p", { className: "mark-text" }, rule));
}

function makeBar(name, value, mark) {
  const fill = make("div", { className: "fill" });
  fill.style.width = `${100 * value}%`;
  const track = make("div", { className: "track", role: "meter", ariaLabel: name, ariaValueMin: "0", ariaValueMax: "100" }, fill);
  track.ariaValueNow = (100 * value).toFixed(1);
  track.ariaValueText = mark === null ? percent(value) : `${percent(value)}; threshold ${percent(mark)}`;
  if (mark !== null) {
    const line = make("div", { className: "mark" });
    line.style.left = `${100 * mark}%`;
    track.append(line);
  }
  const head = make("div", { className: "bar-head" }, make("span", {}, name), make("span", {}, percent(value)));
  return make("div", { className: "bar" }, head, track);
}

function makeSets(sets) {
  const rows = Object.entries(sets).map(([confidence, labels]) => [`at ${confidence} confidence`, tellSet(labels)]);
  return makeSection("What cannot be ruled out", makeFacts(rows));
}

function tellSet(labels) {
  if (!labels.length) return "nothing is told";
  return labels.length > 1 ? `${labels.join(" and ")}: the image could be either` : `${labels[0]} only`;
}

function makeAcceptance({ score, threshold }) {
  const text = `The mark: images are accepted from ${percent(threshold)} upwards.`;
  return makeSection("Acceptance",
    makeBar("Looks like a frontal chest X-ray", score, threshold),
    make("p", { className: "mark-text" }, text));
}

const NAMES = {
  format: "Format", width: "Width", height: "Height", sha256: "SHA-256",
  study_instance_uid: "Study UID", series_instance_uid: "Series UID",
  sop_instance_uid: "SOP instance UID", sop_class_uid: "SOP class UID",
};

function makeDetails(prediction, links) {
  const { width, height, dicom, ...rest } = prediction.image;
  const image = Object.entries({ ...rest, ...dicom })
    .filter(([, value]) => value)
    .map(([name, value]) => [NAMES[name] ?? name, String(value), name === "format" ? "" : "code"]);
  const { name, version, digest } = prediction.model;
  return makeSection("Image and model", makeFacts([
    ...image.slice(0, 1), ["Size", `${width} × ${height} pixels`], ...image.slice(1),
    ["Model", `${name}, version ${version}`], ["", make("span", {}, ...links)], ["Digest", digest, "code"],
    ["Answer", prediction.id, "code"], ["Time", `${Math.round(prediction.timings_ms.total)} ms`],
  ]));
}

export function makeFacts(rows) {
  const cells = rows.flatMap(([name, value, className = ""]) =>
    [make("dt", {}, name), make("dd", { className }, value)]);
  return make("dl", { className: "facts" }, ...cells);
}

function makeSection(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
}

export function percent(value) {
  const digits = value > 0 && value < 0.001 ? 3 : 1;
  return `${(100 * value).toFixed(digits)}%`;
}
