// Puts one exported model into the app: npm run sample -- RUN/artifacts/executorch-w8a8
const fs = require("fs");
const path = require("path");

function fail(what, how) {
  console.error(`error: ${what}\n  ${how}`);
  process.exit(2);
}

const from = process.argv[2];
if (!from) fail("no directory given", "npm run sample -- RUN/artifacts/executorch-w8a8");
const card = path.join(from, "artifact.json");
if (!fs.existsSync(card)) fail(`there is no artifact.json in ${from}`, "give a directory that `lowdino export` made");
const { target, file } = JSON.parse(fs.readFileSync(card, "utf8"));
if (target !== "executorch") fail(`${from} is for ${target}`, "this app runs executorch; export that target");

const to = path.resolve(__dirname, "../assets/sample");
fs.mkdirSync(to, { recursive: true });
fs.copyFileSync(card, path.join(to, "artifact.json"));
fs.copyFileSync(path.join(from, path.basename(file)), path.join(to, "model.pte"));
fs.writeFileSync(
  path.join(to, "index.js"),
  'exports.sample = { card: require("./artifact.json"), file: require("./model.pte") };\n',
);
console.log(`the next build carries ${from}`);
