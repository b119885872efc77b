'use strict';

// EMBEDDER, GALLERY and RUNTIME come from the files that write_page.py writes, `view` from view.js

const SHOWN = 12;

function bytes(base64) {
  const letters = atob(base64);
  const values = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) values[i] = letters.charCodeAt(i);
  return values;
}

// a page opened from a disk may not fetch files, so all of them arrive as scripts
async function startSession() {
  ort.env.wasm.numThreads = 1; // threads take headers that only a server sends
  ort.env.wasm.wasmBinary = bytes(RUNTIME.wasm).buffer;
  const glue = new Blob([bytes(RUNTIME.mjs)], { type: 'text/javascript' });
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(glue) };
  return ort.InferenceSession.create(bytes(EMBEDDER.onnx), { executionProviders: ['wasm'] });
}

const gallery = new Float32Array(bytes(GALLERY.embeddings).buffer);
const dimension = gallery.length / GALLERY.names.length;
let session; // begun by the first picture: the page itself is there at once

// the input of the model, from the bytes of a picture
async function inputOf(blob) {
  const rule = EMBEDDER.rule;
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: rule.exif_orientation ? 'from-image' : 'none',
    colorSpaceConversion: 'none',
    premultiplyAlpha: 'none',
  });
  const { width, height } = bitmap;
  const paint = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  paint.drawImage(bitmap, 0, 0);
  const rgba = paint.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    pixels[to] = rgba[from];
    pixels[to + 1] = rgba[from + 1];
    pixels[to + 2] = rgba[from + 2];
  }
  return view(pixels, height, width, rule);
}

async function embeddingOf(blob) {
  const { height, width } = EMBEDDER.rule;
  const image = new ort.Tensor('float32', await inputOf(blob), [1, height, width, 3]);
  session ??= startSession();
  const { embedding } = await (await session).run({ image });
  return embedding.data;
}

// [{place, name, similarity}] of the most similar pictures of the gallery, the nearest first
function neighboursOf(embedding, count = SHOWN) {
  const similarities = GALLERY.names.map((name, place) => {
    let similarity = 0;
    for (let i = 0; i < dimension; i++) similarity += embedding[i] * gallery[place * dimension + i];
    return { place, name, similarity };
  });
  return similarities.sort((a, b) => b.similarity - a.similarity).slice(0, count);
}

const element = (id) => document.getElementById(id);

function showNeighbours(embedding) {
  element('found').replaceChildren(
    ...neighboursOf(embedding).map(({ place, name, similarity }) => {
      const button = document.createElement('button');
      const picture = document.createElement('img');
      const caption = document.createElement('span');
      const value = document.createElement('b');
      picture.src = GALLERY.thumbnails[place];
      picture.alt = '';
      // long names break behind their separators
      caption.append(...name.split(/(?<=[/_.-])/).flatMap((part) => [part, document.createElement('wbr')]));
      value.textContent = similarity.toFixed(3);
      button.append(picture, value, caption);
      button.title = `Search with ${name}`;
      button.addEventListener('click', () => {
        showQuery(GALLERY.thumbnails[place], name);
        showNeighbours(gallery.subarray(place * dimension, (place + 1) * dimension));
        say(`The pictures most similar to ${name}.`);
        scrollTo({ top: 0 });
      });
      const item = document.createElement('li');
      item.append(button);
      return item;
    }),
  );
}

function showQuery(source, name) {
  element('query').src = source;
  element('query').alt = `The picture searched with: ${name}`;
  element('query').hidden = false;
}

function say(words) {
  element('status').textContent = words;
}

let newest = 0; // of two pictures chosen quickly, the later one is shown
async function search(file) {
  const own = ++newest;
  say(session ? 'Searching …' : 'Starting the embedder …');
  try {
    const started = performance.now();
    const embedding = await embeddingOf(file);
    if (own !== newest) return;
    showQuery(URL.createObjectURL(file), file.name);
    showNeighbours(embedding);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    say(`The pictures most similar to ${file.name}, found in ${seconds} s.`);
  } catch (error) {
    if (own !== newest) return;
    const is_picture = error.name !== 'InvalidStateError';
    say(is_picture ? `It failed: ${error}` : `${file.name} is no picture that this browser reads.`);
  }
}

element('count').textContent = GALLERY.names.length.toLocaleString('en');
element('prepared').textContent = EMBEDDER.rule.before_resizing
  ? `This embedder wants pictures that are prepared first: ${EMBEDDER.rule.before_resizing}.`
  : '';
if (EMBEDDER.fingerprint === GALLERY.fingerprint) {
  element('file').addEventListener('change', ({ target }) => {
    if (target.files.length) search(target.files[0]);
    target.value = ''; // the same picture may be chosen again
  });
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) search(event.dataTransfer.files[0]);
  });
} else {
  element('file').disabled = true;
  say('The gallery was embedded by another model: run write_page.py again.');
}
