// The whole app in a real browser against a running `lowdino serve`: BASE_URL=http://127.0.0.1:PORT node --test e2e/
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { faults } from "./basics.mjs";
import {
  BASE_URL,
  album,
  go,
  lookAt,
  openApp,
  openBrowser,
  openPhone,
  ready,
  recognises,
  startCamera,
  teach,
} from "./browser.mjs";

let browser;
let close;
before(async () => {
  ({ browser, close } = await openBrowser());
});
after(() => close());

async function api(path) {
  const answer = await fetch(new URL(path, BASE_URL));
  assert.equal(answer.status, 200, path);
  return answer;
}

async function notice(page) {
  await page.locator("#notice.shown").waitFor();
  return page.locator("#notice").innerText();
}

test("golden images give Python's embeddings in the browser", async () => {
  const { context, page, problems } = await openPhone(browser);
  await openApp(page);
  const { models } = await (await api("api/info")).json();
  assert.ok(models.length > 0);
  for (const { name, scheme } of models) {
    const { n, cosines } = await page.evaluate((which) => window.lowdino.embedGolden(which), name);
    assert.equal(cosines.length, n);
    const least = scheme === "w8a8" ? 0.995 : 0.9999;
    assert.ok(Math.min(...cosines) >= least, `${name}: ${Math.min(...cosines)}`);
  }
  assert.deepEqual(problems, []);
  await context.close();
});

test("teach three things, recognise them, reload, offline, export, import", { timeout: 240_000 }, async () => {
  const { context, page, problems } = await openPhone(browser, { acceptDownloads: true });
  await openApp(page);
  assert.deepEqual(await faults(page), []);
  await album(page, "1-first-visit");
  await go(page, "Live");
  await page.getByText("Teach at least two classes").waitFor();
  assert.deepEqual(await faults(page), []);
  await page.getByRole("link", { name: "Teach something" }).click();
  await startCamera(page);

  const begin = Date.now();
  await teach(page, "Scarf", "red");
  await teach(page, "Cup", "blue");
  await teach(page, "Plant", "green");
  const seconds = (Date.now() - begin) / 1000;
  assert.ok(seconds < 120, `three things took ${seconds} s`);
  await album(page, "2-teach");
  assert.deepEqual(await faults(page), []);

  await page.getByRole("link", { name: "Try it live" }).click();
  await page.waitForFunction(() => document.getElementById("live-label")?.textContent !== "…");
  const shiftsBefore = await page.evaluate(() => window.shifts.length);
  for (const [name, thing] of [
    ["Scarf", "red"],
    ["Cup", "blue"],
    ["Plant", "green"],
  ])
    await recognises(page, name, thing);
  const shifts = await page.evaluate((from) => window.shifts.slice(from), shiftsBefore);
  assert.deepEqual(shifts, [], "the live page jumped");
  assert.ok((await page.locator(".neighbours img[alt='Plant']").count()) > 0);
  await recognises(page, "Scarf", "red");
  await album(page, "3-live");
  assert.deepEqual(await faults(page), []);

  await page.evaluate(() => window.lowdino.settled());
  await page.reload();
  await ready(page);
  await go(page, "Teach");
  await page.getByRole("button", { name: /^Add an example of Cup; 4 examples/ }).waitFor();

  await page.evaluate(() => navigator.serviceWorker.ready.then(() => null));
  await context.setOffline(true);
  await page.reload();
  await ready(page);
  assert.equal(
    await page.evaluate(() =>
      fetch("api/info").then(
        () => "answered",
        () => "offline",
      ),
    ),
    "offline",
  );
  await startCamera(page);
  await go(page, "Live");
  await recognises(page, "Cup", "blue");
  await go(page, "Model");
  await page.getByText("work without a network").waitFor();
  await context.setOffline(false);

  await go(page, "Teach");
  const [saved] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Export" }).click(),
  ]);
  const text = readFileSync(await saved.path(), "utf8");
  assert.equal(JSON.parse(text).classes.length, 3);

  const choose = (name, content) =>
    page
      .getByLabel("Import classes")
      .setInputFiles({ name, mimeType: "application/json", buffer: Buffer.from(content) });
  await choose("damaged.json", text.slice(0, text.length / 2));
  assert.match(await notice(page), /\S+.*\. .+\./s); // what, and how to mend it
  assert.equal(await page.locator(".tile").count(), 3, "a damaged import must lose nothing");

  await page.getByRole("button", { name: "Edit Cup" }).click();
  await page.getByRole("dialog").waitFor();
  assert.deepEqual(await faults(page), []);
  await album(page, "4-class");
  await page.getByRole("button", { name: "Delete class" }).click();
  assert.equal(await page.locator(".tile").count(), 2);
  await choose("classes.json", text);
  await page.getByRole("button", { name: /^Add an example of Cup; 4 examples/ }).waitFor();
  assert.deepEqual(problems, []);
  await context.close();
});

test("by keyboard alone: name, add, rename, delete an example, undo", { timeout: 120_000 }, async () => {
  const { context, page } = await openPhone(browser);
  await openApp(page);
  await startCamera(page);
  await page.getByLabel("Name of a new class").focus();
  await page.keyboard.type("Key");
  await page.keyboard.press("Enter");
  await lookAt(page, "red");
  for (const n of [1, 2]) {
    await page.keyboard.press("Enter"); // the focus is on the new tile
    await page.getByRole("button", { name: new RegExp(`^Add an example of Key; ${n} example`) }).waitFor();
  }
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.getByRole("button", { name: "Delete example 1" }).press("Enter");
  await page.getByLabel("Name", { exact: true }).fill("Door key");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Add an example of Door key; 1 example so far" }).waitFor();
  for (let i = 0; i < 2; i++) await page.getByRole("button", { name: "Undo" }).press("Enter");
  await page.getByRole("button", { name: "Add an example of Key; 2 examples so far" }).waitFor();
  await page.getByRole("button", { name: "Edit Key" }).press("Enter");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await context.close();
});

test("without a camera photos teach and are recognised, and the page says why", { timeout: 120_000 }, async () => {
  const { context, page, problems } = await openPhone(browser);
  await page.addInitScript(() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
  });
  await openApp(page);
  const start = page.getByRole("button", { name: "Start camera" });
  if (await start.isVisible()) await start.click();
  await page.getByText("The camera is not allowed here").waitFor();
  assert.deepEqual(await faults(page), []);
  await album(page, "5-no-camera");
  const photo = async (r, g, b) =>
    Buffer.from(
      await page.evaluate(
        async ([red, green, blue]) => {
          const canvas = new OffscreenCanvas(640, 480);
          const context = canvas.getContext("2d");
          for (let i = 0; i < 12; i++) {
            context.fillStyle = i % 2 ? `rgb(${red} ${green} ${blue})` : "#fff";
            context.fillRect(i * 54, 0, 54, red > 128 ? 480 : 200);
          }
          return [...new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer())];
        },
        [r, g, b],
      ),
    );
  for (const [name, colour] of [
    ["Warm", [220, 60, 30]],
    ["Cold", [20, 60, 220]],
  ]) {
    await page.getByLabel("Name of a new class").fill(name);
    await page.getByRole("button", { name: "Add class" }).click();
    const [chooser] = await Promise.all([
      page.waitForEvent("filechooser"),
      page.getByRole("button", { name: new RegExp(`^Add an example of ${name};`) }).click(),
    ]);
    const buffer = await photo(...colour);
    await chooser.setFiles([1, 2].map((i) => ({ name: `${name}${i}.png`, mimeType: "image/png", buffer })));
    await page.getByRole("button", { name: new RegExp(`^Add an example of ${name}; 2 examples`) }).waitFor();
  }
  await go(page, "Live");
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.getByRole("button", { name: "Next photo" }).click(),
  ]);
  await chooser.setFiles({ name: "what.png", mimeType: "image/png", buffer: await photo(20, 60, 220) });
  await page.waitForFunction(() => document.getElementById("live-label")?.textContent === "Cold");
  assert.deepEqual(problems, []);
  await context.close();
});

test(
  "a dropped .tflite with its artifact.json is used and kept; a pair that does not match is refused",
  { timeout: 120_000 },
  async () => {
    const { context, page } = await openPhone(browser);
    await openApp(page);
    const { models } = await (await api("api/info")).json();
    const float = models.find((m) => m.scheme === "none");
    const other = models.find((m) => m.scheme !== "none");
    const model = Buffer.from(await (await api(float.url)).arrayBuffer()).toString("base64");
    const drop = (card) =>
      page.evaluate(
        ([b64, json]) => {
          const bytes = Uint8Array.from(atob(b64), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "mine.tflite"));
          if (json !== null) dataTransfer.items.add(new File([json], "artifact.json"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        },
        [model, card],
      );
    await drop(null);
    assert.match(await notice(page), /artifact\.json.*missing/);
    if (other !== undefined) {
      await drop(JSON.stringify(other.card));
      await page.getByText("is not the file that was exported").waitFor();
    }
    // A card of another name, so that it is no model of the server's.
    await drop(JSON.stringify({ ...float.card, student: "dropped" }));
    await page.getByText("is in use").waitFor();
    await page.getByRole("button", { name: "Prove it on this device" }).click();
    await page.getByText(/cosine \d\.\d+ to what this file gave/).waitFor();
    assert.deepEqual(await faults(page), []);
    await album(page, "6-model");
    await context.setOffline(false);
    await page.reload();
    await ready(page);
    assert.match(await page.locator(".current dl").innerText(), new RegExp(float.card.sha256.slice(0, 12)));
    await context.close();
  },
);

test("the benchmark measures every model, shows it, and the results are taken", { timeout: 400_000 }, async () => {
  const { context, page, problems } = await openPhone(browser);
  await openApp(page, "#bench");
  const job = await (await api("api/job")).json();
  await page.getByRole("button", { name: "Start" }).click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByText("Benchmark cancelled").waitFor();
  await page.getByRole("button", { name: "Start" }).click();
  await page.getByRole("progressbar").waitFor();
  await album(page, "7-benchmark-running");
  await page.locator(".cards .card").first().waitFor({ timeout: 300_000 });
  assert.deepEqual(await page.locator(".cards .failed").allInnerTexts(), []);
  assert.equal(await page.locator(".cards .card").count(), job.models.length);
  const answers = [];
  page.on("response", (r) => r.url().endsWith("/api/results") && answers.push(r));
  const send = page.getByRole("button", { name: "Send to the computer" });
  if (await send.isVisible()) await send.click();
  await page.getByText("Sent. The run's report shows it.").waitFor({ timeout: 120_000 });
  for (const answer of answers) {
    const { row } = await answer.json();
    assert.equal(answer.status(), 200);
    assert.ok(row.latency_ms.p50 > 0);
    if (job.n_query > 0) assert.ok(row.knn_top1 >= 0 && row.knn_top1 <= 1);
  }
  if (job.n_query > 0) assert.match(await page.locator(".cards").innerText(), /kNN\s+\d+\.\d%/);
  assert.deepEqual(await faults(page), []);
  await page.locator("#panel").evaluate((el) => (el.scrollTop = 0));
  await page.getByRole("button", { name: "Dismiss" }).click();
  await album(page, "8-benchmark");
  assert.deepEqual(problems, []);
  await context.close();
});

test("?auto=1 runs the job and says so in the title", { timeout: 400_000 }, async () => {
  const { context, page } = await openPhone(browser);
  const taken = [];
  page.on("response", (r) => r.url().endsWith("/api/results") && taken.push(r.status()));
  await page.goto(new URL("?auto=1&backends=wasm", BASE_URL).href);
  await page.waitForFunction(() => /^lowdino: (done|failed)$/.test(document.title), null, { timeout: 300_000 });
  assert.equal(await page.title(), "lowdino: done");
  const job = await (await api("api/job")).json();
  assert.deepEqual(
    taken,
    job.models.map(() => 200),
  );
  await context.close();
});
