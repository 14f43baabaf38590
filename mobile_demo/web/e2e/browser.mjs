// Chromium with a fake camera, and what the tests do over and over.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { writeFilm } from "./fake-camera.mjs";

export const BASE_URL = process.env.BASE_URL;
if (!BASE_URL) throw new Error("BASE_URL is not set: the address that `lowdino serve RUN` printed");

const PHONE = { width: 360, height: 640 };
const WIDE = { width: 1280, height: 800 };

export async function openBrowser() {
  const scratch = mkdtempSync(join(tmpdir(), "lowdino-e2e-"));
  const film = process.env.FAKE_CAMERA ?? join(scratch, "camera.y4m");
  if (process.env.FAKE_CAMERA === undefined) writeFilm(film);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--use-fake-ui-for-media-stream",
      "--use-fake-device-for-media-stream",
      `--use-file-for-fake-video-capture=${film}`,
    ],
  });
  const close = async () => {
    await browser.close();
    rmSync(scratch, { recursive: true, force: true });
  };
  return { browser, close };
}

/** A phone's page. `problems` collects whatever the page reports as an error. */
export async function openPhone(browser, options = {}) {
  const context = await browser.newContext({ viewport: PHONE, deviceScaleFactor: 2, colorScheme: "dark", ...options });
  await context.addInitScript(() => {
    window.shifts = [];
    new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((e) => e.value))).observe({
      type: "layout-shift",
      buffered: true,
    });
  });
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (e) => problems.push(`uncaught: ${e.message}`));
  page.on("console", (m) => {
    const expected = /Failed to load resource|net::ERR_INTERNET_DISCONNECTED/;
    if (m.type() === "error" && !expected.test(m.text())) problems.push(m.text());
  });
  return { context, page, problems };
}

/** The app, with a model loaded. */
export async function openApp(page, path = "") {
  await page.goto(new URL(path, BASE_URL).href);
  await ready(page);
}

export async function ready(page) {
  await page.waitForFunction(
    () => /^tflite-|nano|,/.test(document.getElementById("model-chip")?.textContent ?? ""),
    null,
    {
      timeout: 60_000,
    },
  );
}

export async function go(page, name) {
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name, exact: true }).click();
}

export async function startCamera(page) {
  const start = page.getByRole("button", { name: "Start camera" });
  // Where the permission is there already, the camera starts by itself.
  await Promise.race([start.click({ timeout: 20_000 }).catch(() => {}), cameraOn(page)]);
  await cameraOn(page);
}

function cameraOn(page) {
  return page.waitForSelector('#stage[data-state="on"]', { timeout: 30_000 });
}

/** Waits until the film shows this thing, and the live page says `label` where one is given. */
export async function lookAt(page, thing, label = null) {
  await page.waitForFunction(
    ([wanted, text]) => {
      if (text !== null && document.getElementById("live-label")?.textContent !== text) return false;
      const video = document.querySelector("video");
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 16;
      const context = canvas.getContext("2d");
      context.drawImage(video, 0, 0, 16, 16);
      const sums = [0, 0, 0];
      context.getImageData(0, 0, 16, 16).data.forEach((v, i) => i % 4 < 3 && (sums[i % 4] += v));
      return ["red", "green", "blue"][sums.indexOf(Math.max(...sums))] === wanted;
    },
    [thing, label],
    { polling: 50, timeout: 60_000 },
  );
}

export async function teach(page, name, thing, times = 4) {
  const tile = page.getByRole("button", { name: new RegExp(`^Add an example of ${name};`) });
  if ((await tile.count()) === 0) {
    await page.getByLabel("Name of a new class").fill(name);
    await page.getByRole("button", { name: "Add class" }).click();
  }
  for (let i = 1; i <= times; i++) {
    await lookAt(page, thing);
    await tile.click();
    await page.getByRole("button", { name: new RegExp(`^Add an example of ${name}; ${i} example`) }).waitFor();
  }
}

/** The live page names every thing while the film shows it, and keeps its name for as long as it is seen. */
export async function recognises(page, name, thing) {
  await lookAt(page, thing, name);
  await page.waitForTimeout(600);
  await lookAt(page, thing, name);
}

/** The page as it is, on a phone in both themes and on a wide screen; only where SCREENSHOTS names a folder. */
export async function album(page, name) {
  const folder = process.env.SCREENSHOTS;
  if (folder === undefined) return;
  mkdirSync(folder, { recursive: true });
  for (const [suffix, viewport, colorScheme] of [
    ["360-light", PHONE, "light"],
    ["1280-light", WIDE, "light"],
    ["1280-dark", WIDE, "dark"],
    ["360-dark", PHONE, "dark"],
  ]) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(folder, `${name}-${suffix}.png`) });
  }
}
