"""What tests run in the page: stand-ins, from before its own scripts on, and a measurement.

And the model card that one of them shows there.
"""

# A file that this browser cannot show, as it cannot show DICOM: the first picture fails.
CANNOT_SHOW = """
const create = URL.createObjectURL;
let first = true;
URL.createObjectURL = (blob) => {
  const shown = first ? new Blob(["no picture"]) : blob;
  first = false;
  return create.call(URL, shown);
};
"""

# What the service says of a DICOM file beyond what it says of others.
OF_DICOM = """
const json = Response.prototype.json;
Response.prototype.json = async function () {
  const content = await json.call(this);
  if (content.image) {
    content.image.dicom = {
      study_instance_uid: "1.2.3",
      series_instance_uid: "1.2.3.4",
      sop_instance_uid: "1.2.3.4.5",
    };
  }
  return content;
};
"""

# A service that is busy at first; what the page sends is kept.
BUSY = """
const ask = window.fetch;
window.sent = [];
window.fetch = (path, options) => {
  if (options.body) window.sent.push(options.body.get("file").name);
  if (path !== "v1/predictions" || window.sent.length > 1) return ask(path, options);
  const problem = {
    type: "urn:covid-xray:problem:overloaded", title: "The service is overloaded", status: 503,
    detail: "Expected 1 free of 65 places; received 0.", code: "overloaded",
    expected: "1 free of 65 places", received: "0",
  };
  const headers = {"Content-Type": "application/problem+json", "Retry-After": "7"};
  return Promise.resolve(new Response(JSON.stringify(problem), {status: 503, headers}));
};
"""

MEAN = """
const image = document.querySelector(arguments[0]);
const canvas = document.createElement("canvas");
canvas.width = image.naturalWidth;
canvas.height = image.naturalHeight;
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0);
const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
return data.reduce((sum, value, at) => sum + (at % 4 < 3 ? value : 0), 0) / (data.length * 0.75);
"""

CARD = """# Title

Made for `tests`, **only** <b>there</b>.

## Metrics

- one
  goes on
- two

| images | AUC |
| --- | --- |
| all | 0.5 |
"""
