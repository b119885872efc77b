"""An exported embedder in onnxruntime-node and in onnxruntime-web, for export_parity.py."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from headless_chromium import HeadlessChromium, find_chromium
from run_exported import REPEATS

BATCH_SIZES = (1, 3, 16)
NODE_PROGRAM = """
const ort = require('onnxruntime-node');
const fs = require('fs');
const [repeats, size, ...batches] = process.argv.slice(2).map(Number);
(async () => {
  const options = { intraOpNumThreads: 1 };
  const session = await ort.InferenceSession.create('embedder.onnx', options);
  const pixels = new Float32Array(new Uint8Array(fs.readFileSync('images.bin')).buffer);
  const imagesOf = (batch) => {
    const values = pixels.slice(0, batch * size * size * 3);
    return new ort.Tensor('float32', values, [batch, size, size, 3]);
  };
  for (const batch of batches) {
    const { embedding } = await session.run({ image: imagesOf(batch) });
    fs.writeFileSync(`node-${batch}.bin`, Buffer.from(embedding.data.buffer,
      embedding.data.byteOffset, embedding.data.byteLength));
  }
  const image = imagesOf(1);
  await session.run({ image });
  const times = [];
  for (let i = 0; i < repeats; i++) {
    const started = process.cpuUsage();
    await session.run({ image });
    const { user, system } = process.cpuUsage(started);
    times.push((user + system) / 1000);
  }
  const milliseconds = times.sort((a, b) => a - b)[(repeats - 1) / 2];
  console.log(JSON.stringify({ milliseconds }));
})();
"""

WEB_PROGRAM = """
var session, image;
(async () => {
  const [size, ...batches] = %s;
  ort.env.wasm.numThreads = 1;
  session = await ort.InferenceSession.create('/embedder.onnx');
  const pixels = new Float32Array(await (await fetch('/images.bin')).arrayBuffer());
  const embeddings = {};
  for (const batch of batches) {
    const values = pixels.slice(0, batch * size * size * 3);
    image = new ort.Tensor('float32', values, [batch, size, size, 3]);
    const { embedding } = await session.run({ image });
    embeddings[batch] = Array.from(embedding.data);
  }
  image = new ort.Tensor('float32', pixels.slice(0, size * size * 3), [1, size, size, 3]);
  await session.run({ image });
  return embeddings;
})()
"""


class Measured(NamedTuple):
    """What a runtime made of the images."""

    version: str
    embeddings: list[np.ndarray]  # by BATCH_SIZES
    milliseconds: float  # of the processor, for one image


def in_node(folder, images, arguments):
    version = package_version(arguments, "onnxruntime-node")
    if version is None or not shutil.which("node"):
        return None
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    (folder / "run.js").write_text(NODE_PROGRAM, encoding="utf-8")
    command = ["node", "run.js", *map(str, (REPEATS, images.shape[1], *BATCH_SIZES))]
    modules = str(Path(arguments.node_modules).resolve())
    environment = {**os.environ, "NODE_PATH": modules}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    files = [folder / f"node-{n}.bin" for n in BATCH_SIZES]
    return measured(
        done.stdout,
        [np.fromfile(file, "float32").reshape(n, -1) for file, n in zip(files, BATCH_SIZES)],
        version=f"{version}, Node.js {node.stdout.strip()}",
    )


def in_web(folder, images, arguments):
    """onnxruntime-web in Chromium."""
    version = package_version(arguments, "onnxruntime-web")
    if version is None or find_chromium() is None:
        return None
    runtime = Path(arguments.node_modules, "onnxruntime-web", "dist")
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        shutil.copy(runtime / name, folder)
    (folder / "index.html").write_text("<script src='/ort.wasm.min.js'></script>", encoding="utf-8")
    handler = functools.partial(SilentHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with HeadlessChromium() as page:
            page.open(f"http://127.0.0.1:{server.server_port}/index.html")
            numbers = json.dumps([images.shape[1], *BATCH_SIZES])
            embeddings = page.value(WEB_PROGRAM % numbers)
            started = page.processor_seconds()
            for _ in range(REPEATS):
                page.value("session.run({ image }).then(() => null)")
            seconds = (page.processor_seconds() - started) / REPEATS
            browser = page.ask("Browser.getVersion")["product"].removeprefix("Headless")
        server.shutdown()
    rows = [np.array(embeddings[str(n)], "float32").reshape(n, -1) for n in BATCH_SIZES]
    name = browser.split(".")[0].replace("/", " ")
    return Measured(f"{version}, {name}", rows, seconds * 1000)


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def measured(text, embeddings, version=""):
    found = json.loads(text.splitlines()[-1])
    return Measured(version or found["version"], embeddings, found["milliseconds"])


def package_version(arguments, name):
    package = Path(arguments.node_modules or "", name, "package.json")
    if not arguments.node_modules or not package.exists():
        return None
    return json.loads(package.read_text(encoding="utf-8"))["version"]
