// The page: runs the model on the images that are dropped on it, and shows its answers.
"use strict";
const kdjaxDemo = (() => {
  const element = id => document.getElementById(id);
  const card = JSON.parse(element("card").textContent);
  const [height, width, channels] = card.shape;
  const SHOWN_CLASSES = 5;

  function node(tag, content, name) {
    const created = document.createElement(tag);
    created.append(...[content ?? []].flat());
    if (name) created.className = name;
    return created;
  }

  const percent = value => `${(100 * value).toFixed(1)} %`;
  const number = (value, digits = 4) => Number(value.toPrecision(digits)).toString();
  // A score in the log domain as people read it, as in kdjax/selective/scales.py.
  const shown = {
    log_odds: value => 1 / (1 + Math.exp(-value)),
    log: value => -Math.expm1(-value),
  }[card.scale] || (value => value);
  const scale = { log_odds: "log-odds", log: "-log(1 - s)" }[card.scale];
  // As `shown_threshold` there: near 1, only values in the log domain can be told apart.
  const text = value => scale
    ? `${number(shown(value), 6)} (${scale} ${number(value, 6)})` : number(value);

  // Embedded files are compressed with gzip and encoded in base64.
  async function embedded(id) {
    const text = atob(element(id).textContent.trim());
    const bytes = Uint8Array.from(text, character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function load() {
    ort.env.wasm.numThreads = 1; // more need headers that only a server can send
    ort.env.wasm.wasmBinary = (await embedded("wasm")).buffer;
    const glue = new Blob([await embedded("glue")], { type: "text/javascript" });
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
    return ort.InferenceSession.create(await embedded("model"), { executionProviders: ["wasm"] });
  }

  // A file or blob -> its RGBA bytes, upright, without a conversion of its colour profile.
  async function decode(blob) {
    const bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
    });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
    return { rgba: data, width: bitmap.width, height: bitmap.height };
  }

  function softmax(logits) {
    const largest = Math.max(...logits);
    const powers = logits.map(value => Math.exp(value - largest));
    const total = powers.reduce((sum, value) => sum + value, 0);
    return powers.map(value => value / total);
  }

  // Runs the model on one input, bytes [h, w, c].
  async function classify(session, pixels) {
    const images = new ort.Tensor("uint8", pixels, [1, height, width, channels]);
    const outputs = await session.run({ images });
    return {
      label: Number(outputs.label.data[0]),
      confidence: Number(outputs.confidence.data[0]),
      accepted: Boolean(outputs.accepted.data[0]),
      outlier: outputs.outlier ? Boolean(outputs.outlier.data[0]) : false,
      probabilities: softmax(Array.from(outputs.logits.data, Number).slice(0, card.classes.length)),
    };
  }

  function drawn(image) {
    const canvas = node("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const rgba = new ImageData(image.width, image.height);
    for (let index = 0; index < image.width * image.height; index++) {
      for (let channel = 0; channel < 3; channel++) {
        const source = image.channels * index + (image.channels === 3 ? channel : 0);
        rgba.data[4 * index + channel] = image.pixels[source];
      }
      rgba.data[4 * index + 3] = 255;
    }
    canvas.getContext("2d").putImageData(rgba, 0, 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "the image as the model sees it");
    return canvas;
  }

  function table(probabilities) {
    const order = probabilities.map((_, index) => index)
      .sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN_CLASSES);
    const rows = order.map(index => {
      const bar = node("span");
      bar.style.width = percent(probabilities[index]).replace(" ", "");
      const cells = [node("td", percent(probabilities[index]), "value"), node("td", bar, "bar")];
      const name = node("th", card.classes[index]);
      name.scope = "row";
      return node("tr", [name, ...cells]);
    });
    const more = probabilities.length > order.length;
    const caption = more ? `Probabilities of the ${order.length} most probable classes` : "Probabilities";
    return node("table", [node("caption", caption), node("tbody", rows)]);
  }

  function answer(result) {
    const label = card.classes[result.label], { confidence, accepted, outlier } = result;
    const title = accepted ? label : `abstains (it would say ${label})`;
    const own = card.class_thresholds, least = own ? own[result.label] : card.threshold;
    const threshold = least === null
      ? `it accepts no image${own ? ` as ${label}` : ""}`
      : `${accepted ? "at least" : "below"} the threshold ${text(least)}${own ? ` of ${label}` : ""}`;
    return [
      node("h3", title, accepted ? "accepted" : "abstained"),
      node("p", `${accepted ? "accepted" : "abstained"}: confidence (${card.score}) ` +
        `${text(confidence)}, ${outlier ? "but unlike the training images" : threshold}`),
      table(result.probabilities),
    ];
  }

  async function show(session, blob) {
    const item = node("li");
    element("results").prepend(item);
    const name = blob.name || "pasted image";
    try {
      const picture = await decode(blob);
      const { image, notes } = kdjaxPicture.fit(picture, card.shape, card.fit);
      const result = await classify(session, image.pixels);
      const size = `${name}, ${picture.width} x ${picture.height}`;
      const caption = node("figcaption", [size, notes.length ? `: ${notes.join(", ")}` : ""]);
      item.append(node("figure", [drawn(image), caption]), node("div", answer(result), "answer"));
      item.dataset.result = JSON.stringify({ name, ...result });
    } catch (error) {
      item.append(node("p", `${name}: not an image that this browser can decode (${error.message})`, "error"));
      item.dataset.result = JSON.stringify({ name, error: error.message });
    }
  }

  async function showAll(session, blobs) {
    for (const blob of blobs) await show(session, blob);
    element("status").textContent = `${element("results").children.length} images`;
    document.body.dataset.state = "ready";
  }

  function listen(session) {
    const take = blobs => {
      if (!blobs.length) return;
      document.body.dataset.state = "busy";
      showAll(session, blobs);
    };
    element("files").addEventListener("change", event => {
      take([...event.target.files]);
      event.target.value = ""; // so that the same files can be chosen again
    });
    document.addEventListener("dragover", event => {
      event.preventDefault();
      element("drop").classList.add("over");
    });
    document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
    document.addEventListener("drop", event => {
      event.preventDefault();
      element("drop").classList.remove("over");
      take([...event.dataTransfer.files]);
    });
    document.addEventListener("paste", event => take([...event.clipboardData.files]));
  }

  async function start() {
    for (const id of ["title", "summary", "promise", "preprocessing", "versions"]) {
      element(id).textContent = card.texts[id];
    }
    try {
      listen(await load());
      element("status").textContent = "The model is ready.";
      document.body.dataset.state = "ready";
    } catch (error) {
      element("status").textContent = `The model cannot be loaded in this browser: ${error.message}`;
      element("status").className = "error";
      document.body.dataset.state = "failed";
    }
  }

  return { start, decode };
})();
kdjaxDemo.start();
