// What every page must hold: names, sizes, contrast, no sideways scrolling. Runs inside the page.

/** @returns {Promise<string[]>} what is wrong in either theme, one line each */
export async function faults(page) {
  const found = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" }); // a colour on its way to another is neither
    found.push(...(await look(page)).map((line) => `${colorScheme}: ${line}`));
  }
  await page.emulateMedia({ reducedMotion: null });
  return found;
}

function look(page) {
  return page.evaluate(() => {
    const found = [];
    const visible = (el) =>
      el.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && el.getClientRects().length > 0;
    const says = (el) =>
      `${el.tagName.toLowerCase()}.${el.className || el.id} "${(el.textContent ?? "").trim().slice(0, 30)}"`;

    const controls = [...document.querySelectorAll("a[href], button, input, [role=button]")].filter(visible);
    for (const el of controls) {
      const label = el.id === "" ? null : document.querySelector(`label[for="${el.id}"]`);
      const name = el.getAttribute("aria-label") ?? el.textContent?.trim() ?? "";
      if ((name || label?.textContent || "").trim() === "") found.push(`no name: ${says(el)}`);
      const { width, height } = el.getBoundingClientRect();
      if (width < 44 || height < 44) found.push(`${width.toFixed(0)} x ${height.toFixed(0)} px: ${says(el)}`);
    }
    for (const img of document.querySelectorAll("img"))
      if (!img.hasAttribute("alt")) found.push(`no alt: ${img.src.slice(0, 60)}`);

    const rgba = (text) => {
      const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
      return [r, g, b, a];
    };
    const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
    const background = (el) => {
      const layers = [];
      for (let e = el; e !== null; e = e.parentElement) {
        const colour = rgba(getComputedStyle(e).backgroundColor);
        if (colour[3] > 0) layers.push(colour);
        if (colour[3] === 1) break;
      }
      return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
    };
    const luminance = (colour) => {
      const [r, g, b] = colour
        .slice(0, 3)
        .map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = texts.nextNode(); node !== null; node = texts.nextNode()) {
      const el = node.parentElement;
      if (node.textContent.trim() === "" || !visible(el) || el.closest(":disabled, noscript, .hidden")) continue;
      const style = getComputedStyle(el);
      const under = background(el);
      const ink = over(rgba(el instanceof SVGElement ? style.fill : style.color), under);
      const [light, dark] = [luminance(ink), luminance(under)].sort((a, b) => b - a);
      const ratio = (light + 0.05) / (dark + 0.05);
      if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${says(el)}`);
    }
    const { scrollWidth } = document.documentElement;
    if (scrollWidth > innerWidth) found.push(`scrolls sideways: ${scrollWidth} > ${innerWidth}`);
    for (const el of document.querySelectorAll(".panel, .sheet"))
      if (visible(el) && el.scrollWidth > el.clientWidth)
        found.push(`${says(el)} scrolls sideways: ${el.scrollWidth} > ${el.clientWidth}`);
    if (document.documentElement.lang === "") found.push("no language");
    return found;
  });
}
