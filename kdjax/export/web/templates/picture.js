// The pixels of an image as the model's input: what kdjax.data.fit does, in JavaScript.
// Resizing computes the same integers as Pillow; decoding is the browser's.
"use strict";
const kdjaxPicture = (() => {
  const PRECISION = 2 ** 22; // Pillow keeps the weights of a pixel in 22 bits

  // Weight of a pixel at a distance from the centre, and the distance from which it is 0.
  const AREA = { support: 0.5, weight: x => (x > -0.5 && x <= 0.5 ? 1 : 0) };
  const LINEAR = { support: 1, weight: x => Math.max(0, 1 - Math.abs(x)) };

  // The part from `start` to `end` of an axis of `size` pixels -> for each of `count` positions,
  // the first pixel and the weights of the pixels from it on.
  function weights(size, [start, end], count, filter) {
    const scale = Math.fround(Math.fround(end) - Math.fround(start)) / count;
    const stretch = Math.max(scale, 1), support = filter.support * stretch, shrink = 1 / stretch;
    return Array.from({ length: count }, (_, position) => {
      const centre = Math.fround(start) + (position + 0.5) * scale;
      const first = Math.max(0, Math.trunc(centre - support + 0.5));
      const last = Math.min(size, Math.trunc(centre + support + 0.5));
      const raw = Array.from({ length: last - first }, (_, index) =>
        filter.weight((index + first - centre + 0.5) * shrink));
      const total = raw.reduce((sum, value) => sum + value, 0);
      return { first, values: raw.map(value => Math.trunc(0.5 + (value / total) * PRECISION)) };
    });
  }

  // Resamples one axis of `lines` lines; `at(line, position, size)` is the index of a value.
  function resample(pixels, size, part, count, filter, at, lines) {
    const table = weights(size, part, count, filter), result = new Uint8Array(lines * count);
    for (let line = 0; line < lines; line++) {
      for (let position = 0; position < count; position++) {
        const { first, values } = table[position];
        let sum = PRECISION / 2;
        for (let index = 0; index < values.length; index++) {
          sum += pixels[at(line, first + index, size)] * values[index];
        }
        result[at(line, position, count)] = Math.min(255, Math.floor(sum / PRECISION));
      }
    }
    return result;
  }

  function resampleRows({ pixels, width, height, channels }, part, count, filter) {
    if (width === count && part[0] === 0 && part[1] === width) {
      return { pixels, width, height, channels };
    }
    const at = (line, x, size) =>
      (Math.floor(line / channels) * size + x) * channels + (line % channels);
    const lines = height * channels;
    const resampled = resample(pixels, width, part, count, filter, at, lines);
    return { pixels: resampled, width: count, height, channels };
  }

  function resampleColumns({ pixels, width, height, channels }, part, count, filter) {
    if (height === count && part[0] === 0 && part[1] === height) {
      return { pixels, width, height, channels };
    }
    const row = width * channels, at = (line, y) => y * row + line;
    const resampled = resample(pixels, height, part, count, filter, at, row);
    return { pixels: resampled, width, height: count, channels };
  }

  // Resizes a part [left, top, right, bottom] of {pixels [h, w, c], width, height, channels}: to
  // the means of areas when both sides shrink, otherwise by linear interpolation.
  function resize(image, width, height, [left, top, right, bottom]) {
    const filter = right - left >= width && bottom - top >= height ? AREA : LINEAR;
    const rows = picture => resampleRows(picture, [left, right], width, filter);
    const columns = picture => resampleColumns(picture, [top, bottom], height, filter);
    // The order of Pillow 13; earlier versions begin with the rows. It changes a value by 1 at most.
    const columnsFirst =
      image.height > height && image.height - height > 2 * (image.width - width);
    return columnsFirst ? rows(columns(image)) : columns(rows(image));
  }

  const stretch = (image, width, height) =>
    resize(image, width, height, [0, 0, image.width, image.height]);

  // The largest part around the centre that has the proportions of the size.
  function crop(image, width, height) {
    const innerWidth = Math.min(image.width, (image.height * width) / height);
    const innerHeight = Math.min(image.height, (image.width * height) / width);
    const left = (image.width - innerWidth) / 2, top = (image.height - innerHeight) / 2;
    return resize(image, width, height, [left, top, left + innerWidth, top + innerHeight]);
  }

  // Halves to even, as in Python.
  const round = value =>
    value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

  // All of the image, centred on black.
  function pad(image, width, height) {
    const scale = Math.min(width / image.width, height / image.height);
    const [innerWidth, innerHeight] =
      [image.width, image.height].map(size => Math.max(1, round(size * scale)));
    const { channels } = image, inner = stretch(image, innerWidth, innerHeight);
    const left = Math.floor((width - innerWidth) / 2), top = Math.floor((height - innerHeight) / 2);
    const pixels = new Uint8Array(width * height * channels), row = innerWidth * channels;
    for (let y = 0; y < innerHeight; y++) {
      pixels.set(inner.pixels.subarray(y * row, (y + 1) * row), ((top + y) * width + left) * channels);
    }
    return { pixels, width, height, channels };
  }

  const FITS = { stretch, crop, pad };
  const CHANGES = { stretch: "proportions changed", crop: "cropped", pad: "padded" };

  // RGBA bytes -> grey or RGB, with transparency on black.
  function flatten(rgba, width, height, channels) {
    const pixels = new Uint8Array(width * height * channels);
    let transparent = false;
    const colour = (index, alpha) => {
      const product = 128 * (rgba[index] * alpha + 128);
      return ((product >> 8) + product) >> 15; // colour times alpha / 255, as Pillow rounds it
    };
    for (let index = 0; index < width * height; index++) {
      const alpha = rgba[4 * index + 3];
      transparent ||= alpha < 255;
      const red = colour(4 * index, alpha);
      const green = colour(4 * index + 1, alpha), blue = colour(4 * index + 2, alpha);
      if (channels === 1) {
        pixels[index] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
      } else {
        pixels[3 * index] = red;
        pixels[3 * index + 1] = green;
        pixels[3 * index + 2] = blue;
      }
    }
    return { image: { pixels, width, height, channels }, transparent };
  }

  // {rgba, width, height} -> the input of the model, and what was changed, as kdjax notes it.
  function fit(picture, [height, width, channels], mode) {
    const { image, transparent } = flatten(picture.rgba, picture.width, picture.height, channels);
    const notes = {
      [`resized from ${image.width}x${image.height}`]: image.width !== width || image.height !== height,
      [CHANGES[mode]]: image.width * height !== image.height * width,
      "transparency put on black": transparent,
    };
    return {
      image: FITS[mode](image, width, height),
      notes: Object.keys(notes).filter(note => notes[note]),
    };
  }

  return { fit, flatten, resize };
})();
