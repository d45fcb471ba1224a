// What simrec does to a picture before its encoder sees it, in plain JavaScript. README.md explains the steps.
//
//     simrec export photo -o encoder.onnx
//     npm install onnxruntime-node sharp
//     node reference.mjs encoder.onnx shoe.jpg bag.png         prints a code for each picture, a line of JSON
//
// sharp decodes the file, onnxruntime-node runs the graph; all between is here.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

// A picture: {width, height, channels, data: a byte for each channel of each pixel, orientation, background}.

export async function decode(file, step) {
  const { default: sharp } = await import("sharp");
  const { orientation, format, space } = await sharp(file).metadata();
  const pixels = sharp(file, { ignoreIcc: true }).toColourspace(space === "b-w" ? "b-w" : "srgb").raw();
  const { data, info } = await pixels.toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const picture = { width, height, channels, data, orientation };
  if (format !== "jpeg") return picture;
  const scale = Math.max(1, Math.floor(Math.max(width, height) / longestEdge(picture, step.jpeg.keep)));
  return averaged(picture, Math.max(...step.jpeg.divisors.filter((divisor) => divisor <= scale)), 24);
}

export function prepare(picture, steps) {
  return steps.reduce((before, step) => (step.step === "decode" ? before : does[step.step](before, step)), picture);
}

const does = {
  lay_on(picture, { colour }) {
    if (picture.channels % 2) return picture;
    const alphaAt = picture.channels - 1;
    return made(picture.width, picture.height, 3, picture, (x, y, c) => {
      const alpha = at(picture, x, y, alphaAt);
      const value = at(picture, x, y, alphaAt === 1 ? 0 : c);
      return Math.floor((value * alpha + colour[c] * (255 - alpha) + 127) / 255);
    });
  },

  reduce(picture, { keep, shift }) {
    const factor = Math.floor(Math.max(picture.width, picture.height) / longestEdge(picture, keep));
    return averaged(picture, Math.max(1, factor), shift);
  },

  turn(picture, { exif }) {
    const turn = exif[picture.orientation];
    if (!turn) return picture;
    const { width, height, channels } = picture;
    const [across, down] = turn.transpose ? [height, width] : [width, height];
    return made(across, down, channels, picture, (x, y, c) => {
      const left = turn.flip_x ? across - 1 - x : x;
      const top = turn.flip_y ? down - 1 - y : y;
      return turn.transpose ? at(picture, top, left, c) : at(picture, left, top, c);
    });
  },

  choose(picture, { cases }) {
    const facts = { width: picture.width, height: picture.height, grey: picture.channels === 1 };
    const fits = ({ when }) => Object.entries(when).every(([name, value]) => facts[name] === value);
    return prepare(picture, cases.find(fits).steps);
  },

  trim(picture, { background, distance, more_than }) {
    const { width, height, channels } = picture;
    const middle = [0, 1, 2].map((c) => {
      const [, second, third] = [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]
        .map(([x, y]) => at(picture, x, y, c % channels)).sort((one, other) => one - other);
      return background.rounding === "floor" ? Math.floor((second + third) / 2) : (second + third) / 2;
    });
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const apart = middle.map((value, c) => Math.abs(at(picture, x, y, c % channels) - value));
        const far = distance === "sum" ? apart[0] + apart[1] + apart[2] : Math.hypot(...apart);
        if (far > more_than) {
          [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
          [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
        }
      }
    }
    if (right === 0) [left, top, right, bottom] = [0, 0, width, height];
    const item = made(right - left, bottom - top, channels, picture, (x, y, c) => at(picture, left + x, top + y, c));
    return { ...item, background: middle.map(Math.floor) };
  },

  grey(picture, step) {
    if (picture.channels === 1) return picture;
    return made(picture.width, picture.height, 1, picture, (x, y) =>
      greyOf([0, 1, 2].map((c) => at(picture, x, y, c)), step));
  },

  resize(picture, step) {
    const { width, height } = picture;
    const [long, short] = [Math.max(width, height), Math.min(width, height)];
    let kernel = step.kernel;
    let [toWidth, toHeight] = [step.width, step.height];
    let boxes = [[0, width], [0, height]];
    if (step.fit === "contain") {
      if (long < step.width && step.kernel_enlarging) kernel = step.kernel_enlarging;
      const exact = step.other_edge === "short / long * size" ? (short / long) * step.width : (short * step.width) / long;
      const other = Math.max(step.least, halfEven(exact));
      [toWidth, toHeight] = width >= height ? [step.width, other] : [other, step.width];
    }
    if (step.fit === "cover") {
      boxes = [width, height].map((length) => {
        const scaled = Math.floor((step.shortest * length) / short);
        const start = halfEven((scaled - step.width) / 2);
        return [(start * length) / scaled, ((start + step.width) * length) / scaled].map(Math.fround);
      });
    }
    const lines = resampled(picture, true, boxes[0], toWidth, kernel, step.coefficient_bits);
    return resampled(lines, false, boxes[1], toHeight, kernel, step.coefficient_bits);
  },

  sharpen(picture, { weights, shift, passes, percent }) {
    const { width, height, channels } = picture;
    let blurred = picture;
    for (const [right, down] of [[1, 0], [0, 1]]) {
      for (let pass = 0; pass < passes; pass++) {
        const before = blurred;
        const beside = (x, y, c, by) => at(before, clamp(x + by * right, width - 1), clamp(y + by * down, height - 1), c);
        blurred = made(width, height, channels, picture, (x, y, c) =>
          shifted(weights.reduce((sum, weight, place) => sum + weight * beside(x, y, c, place - 1), 0), shift));
      }
    }
    return made(width, height, channels, picture, (x, y, c) => {
      const value = at(picture, x, y, c);
      return clamp(value + Math.trunc(((value - at(blurred, x, y, c)) * percent) / 100), 255);
    });
  },

  negate(picture, { light_from, backdrop }) {
    const from = greyOf(picture.background, backdrop);
    const light = from >= light_from;
    const scale = Math.fround(255 / (light ? from : 255 - from));
    return made(picture.width, picture.height, 1, picture, (x, y) => {
      const far = light ? from - at(picture, x, y, 0) : at(picture, x, y, 0) - from;
      return clamp(halfEven(Math.fround(far * scale)), 255);
    });
  },

  place(picture, { width, height, colour, at: rule }) {
    const placed = (size, length) => rule.startsWith("half_even")
      ? halfEven((size - length) / 2) : Math.floor(size / 2) - Math.floor(length / 2);
    const [left, top] = [placed(width, picture.width), placed(height, picture.height)];
    const around = colour === "background" ? picture.background : colour;
    return made(width, height, picture.channels, picture, (x, y, c) => {
      const inside = x >= left && x < left + picture.width && y >= top && y < top + picture.height;
      return inside ? at(picture, x - left, y - top, c) : around[c];
    });
  },

  array(picture, { shape: [, height, width, channels] }) {
    return made(width, height, channels, picture, (x, y, c) => at(picture, x, y, c % picture.channels));
  },
};

const at = (picture, x, y, c) => picture.data[(y * picture.width + x) * picture.channels + c];
const clamp = (value, most) => Math.min(Math.max(value, 0), most);
const shifted = (sum, bits) => Math.floor((sum + 2 ** (bits - 1)) / 2 ** bits); // sums can be larger than 32 bits
const greyOf = (colour, { weights, shift }) =>
  shifted(weights.reduce((sum, weight, c) => sum + weight * colour[c], 0), shift);

function halfEven(number) {
  const rounded = Math.round(number);
  return Math.abs(number % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function made(width, height, channels, { orientation, background }, value) {
  const data = new Uint8Array(width * height * channels);
  let place = 0;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++) data[place++] = value(x, y, c);
  return { width, height, channels, data, orientation, background };
}

// Pixels that the longest edge of a picture keeps at least.
function longestEdge({ width, height }, { edge, pixels, large }) {
  const [long, short] = [Math.max(width, height), Math.min(width, height)];
  let least = pixels === null ? long : pixels;
  if (pixels !== null && edge === "shortest") least = Math.ceil((pixels * long) / short);
  return large && width * height > large.over ? Math.min(least, large.pixels) : least;
}

function averaged(picture, factor, shift) {
  if (factor === 1) return picture;
  const { width, height, channels } = picture;
  return made(Math.ceil(width / factor), Math.ceil(height / factor), channels, picture, (x, y, c) => {
    const [right, bottom] = [Math.min(width, (x + 1) * factor), Math.min(height, (y + 1) * factor)];
    let sum = 0;
    for (let row = y * factor; row < bottom; row++)
      for (let column = x * factor; column < right; column++) sum += at(picture, column, row, c);
    const count = (right - x * factor) * (bottom - y * factor);
    return Math.floor(((sum + Math.floor(count / 2)) * Math.floor(2 ** shift / count)) / 2 ** shift);
  });
}

// One pass of resizing: of every line (across) or every column.
function resampled(picture, across, [start, end], to, kernel, bits) {
  const length = across ? picture.width : picture.height;
  const scale = Math.fround(end - start) / to;
  const widened = Math.max(scale, 1);
  const support = kernel.support * widened;
  const lines = Array.from({ length: to }, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const values = [];
    for (let x = first; x < last; x++) values.push(weight(kernel, (x - centre + 0.5) * (1 / widened)));
    const total = values.reduce((sum, value) => sum + value, 0) || 1;
    return { first, whole: values.map((value) => Math.trunc((value / total) * 2 ** bits + (value < 0 ? -0.5 : 0.5))) };
  });
  const [width, height] = across ? [to, picture.height] : [picture.width, to];
  return made(width, height, picture.channels, picture, (x, y, c) => {
    const { first, whole } = lines[across ? x : y];
    let sum = 0;
    for (let i = 0; i < whole.length; i++)
      sum += whole[i] * (across ? at(picture, first + i, y, c) : at(picture, x, first + i, c));
    return clamp(shifted(sum, bits), 255);
  });
}

function weight({ name, a }, x) {
  const far = Math.abs(x);
  const sinc = (value) => (value === 0 ? 1 : Math.sin(value * Math.PI) / (value * Math.PI));
  if (name === "box") return x > -0.5 && x <= 0.5 ? 1 : 0;
  if (name === "bilinear") return Math.max(0, 1 - far);
  if (name === "lanczos") return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
}

export async function encode(session, { width, height, channels, data }) {
  const { Tensor } = await import("onnxruntime-node");
  const images = new Tensor("uint8", data, [1, height, width, channels]);
  const results = await session.run({ [session.inputNames[0]]: images });
  return results.codes.data;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { InferenceSession } = await import("onnxruntime-node");
  const [graph, ...files] = process.argv.slice(2);
  const { recipe } = JSON.parse(readFileSync(`${graph}.simrec.json`));
  const session = await InferenceSession.create(graph);
  for (const file of files) {
    const code = await encode(session, prepare(await decode(file, recipe[0]), recipe));
    console.log(JSON.stringify({ picture: file, code: Array.from(code) }));
  }
}
