"use strict";
// Builds the page from its data. Text goes in as text alone: nothing here makes markup of a string.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { report, summary, names, methods, pictures } = data;
  const $ = (id) => document.getElementById(id);

  // An element with attributes and children; strings become text.
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "style") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  }

  // What stands between backquotes is code.
  const coded = (text) => text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));

  const NONE = "–";
  const colour = (method) => `m${Math.max(0, methods.indexOf(method)) % 7}`;
  const settingText = (variant) =>
    Object.entries(variant.settings).map(([flag, value]) => `${flag}=${value}`).join(" ");
  const number = (value, digits) => (value === null || value === undefined ? NONE : value.toFixed(digits));
  const percent = (part) => (part === null || part === undefined ? NONE : `${Math.round(part * 100)} %`);
  const seconds = (value) =>
    value === null || value === undefined ? NONE : `${value.toPrecision(value < 100 ? 2 : 3).replace(/e\+?(-?\d+)/, "·10^$1")} s`;
  const bytes = (value) => (value === null || value === undefined ? NONE : `${Math.round(value / 2 ** 20)} MiB`);
  const ways = { higher: "more is better ↑", lower: "less is better ↓", none: "neither is better" };
  const anchors = { identity: "the photo as it is", copy: "the painting itself" };
  const painted = report.variants.map((_, index) => index).filter((index) => !report.variants[index].anchor);
  const hasSettings = painted.some((index) => Object.keys(report.variants[index].settings).length > 0);

  function variantName(index) {
    const variant = report.variants[index];
    if (variant.anchor) return [anchors[variant.anchor]];
    const setting = settingText(variant);
    return [el("span", { class: `dot ${colour(variant.method)}`, "aria-hidden": "true" }), variant.method,
      setting ? el("span", { class: "setting" }, ` ${setting}`) : null];
  }

  // ---- the top
  const count = (many, one, more) => `${many} ${many === 1 ? one : more}`;
  const done = report.rows.filter((row) => row.picture && !row.error).length;
  $("lede").textContent = [
    count(methods.length, "method", "methods"), count(report.contents.length, "photo", "photos"),
    count(report.styles.length, "painting", "paintings"), count(done, "picture", "pictures"),
  ].join(" · ");
  const failures = report.rows.filter((row) => row.error);
  const broken = report.gates.filter((gate) => gate.broken !== null);
  const banner = (kind, content) => $("gates").append(el("div", { class: `gate ${kind}`, role: kind === "broken" ? "alert" : null }, content));
  for (const gate of broken) banner("broken", `✗ These numbers cannot be trusted. ${gate.claim}: ${gate.broken}`);
  if (!broken.length && report.gates.length) {
    banner("held", el("details", {}, el("summary", {}, `✓ Checked: ${report.gates.map((gate) => gate.claim).join(", ")}`),
      report.gates.map((gate) => el("p", {}, `${gate.claim[0].toUpperCase()}${gate.claim.slice(1)}: ${gate.by.join("; ")}.`))));
  }
  if (failures.length) banner("broken", `✗ ${count(failures.length, "picture", "pictures")} failed; the end of this page tells why.`);

  // ---- the plane
  const plane = document.querySelector("svg.plane");
  if (!summary.plane.content) $("plane-note").textContent = "Nothing was measured that could be drawn here.";
  else $("plane-note").textContent = `Content by “${summary.plane.content}”, style by “${summary.plane.style}”; both are among the numbers below.`;
  function light(method) {
    plane.classList.toggle("hovered", method !== null);
    for (const curve of plane.querySelectorAll(".curve")) curve.classList.toggle("lit", methods[curve.dataset.method] === method);
  }
  for (const curve of plane.querySelectorAll(".curve")) {
    curve.addEventListener("pointerenter", () => light(methods[curve.dataset.method]));
    curve.addEventListener("pointerleave", () => light(null));
  }

  // ---- the numbers
  function fill(table, head, rows, textual = false) {
    table.classList.toggle("text", textual);
    table.replaceChildren(el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
  }
  const heading = (...children) => el("th", { scope: "col" }, ...children);
  fill($("table"),
    [heading("Method"), [...report.metrics, ...report["set-metrics"]].map((metric) => heading(metric.title, el("span", { class: "way" }, ways[metric.better])))],
    report.variants.map((variant, index) => el("tr", { class: variant.anchor ? "anchor-row" : null },
      el("th", { scope: "row" }, variantName(index)),
      report.metrics.map((metric, at) => {
        const cell = summary.cells[index][at];
        if (!cell) return el("td", {}, NONE);
        const show = (value) => number(value, metric.digits);
        return el("td", {}, el("span", { class: cell.best && painted.length > 1 ? "best" : null }, show(cell.median)),
          cell.count > 1 ? el("span", { class: "small" }, `${show(cell.low)} – ${show(cell.high)}`) : null,
          cell.wins === null ? null : el("span", { class: "small" }, `wins ${percent(cell.wins)}`));
      }),
      report["set-metrics"].map((metric, at) => el("td", {}, number(variant.sets[at], metric.digits))))));

  const comparable = report.metrics.map((_, at) => at).filter((at) => report.metrics[at].better !== "none");
  function duel() {
    const wins = summary.wins[Number($("duel-metric").value)] || [];
    fill($("duel"), [heading("better than"), painted.map((index) => heading(names[index]))],
      painted.map((row) => el("tr", {}, el("th", { scope: "row" }, variantName(row)), painted.map((column) => {
        const rate = row === column ? null : wins[row]?.[column] ?? null;
        return el("td", { class: rate === null ? null : "wash", style: { "--part": `${Math.round((rate ?? 0) * 45)}%` } }, percent(rate));
      }))));
  }
  if (painted.length > 1 && comparable.length) {
    $("duel-metric").append(...comparable.map((at) => el("option", { value: at }, report.metrics[at].title)));
    $("duel-metric").addEventListener("change", duel);
    duel();
  } else $("duel-part").hidden = true;

  $("metrics").append(...[...report.metrics, ...report["set-metrics"]].flatMap((metric) => [el("dt", {}, metric.title), el("dd", {}, coded(metric.about), ` In the files: ${metric.name}; ${ways[metric.better]}.`)]));
  if (report.absent.length) {
    fill($("absent"), [heading("Metric"), heading("Why"), heading("How to have it")],
      report.absent.map((absent) => el("tr", {}, el("th", { scope: "row" }, absent.metric.title),
        el("td", { class: "wide" }, coded(absent.reason)), el("td", { class: "wide" }, coded(absent.how)))), true);
  } else $("absent-part").hidden = true;

  // ---- the grid of pictures
  const shape = ([width, height]) => `${width || 4} / ${height || 3}`;
  const byPlace = new Map(report.rows.map((row, index) => [`${row.content} ${row.style} ${row.variant}`, index]));
  const cells = [];
  const pairs = [];
  const groups = [];
  const shownMetrics = ["content-distance", "style-distance", "ssim", "histogram-distance"]
    .map((name) => report.metrics.findIndex((metric) => metric.name === name)).filter((at) => at >= 0).slice(0, 2);

  function source(kind, url, name, ratio) {
    return el("figure", { class: "cell source", style: { "--shape": ratio } },
      el("div", { class: "frame" }, url ? el("img", { src: url, alt: `${kind} ${name}`, loading: "lazy" }) : null),
      el("figcaption", {}, name, el("span", { class: "small" }, kind)));
  }
  function caption(index, row) {
    const values = row ? shownMetrics.map((at) => {
      const metric = report.metrics[at];
      return `${metric.title} ${number(row.values[at], metric.digits)}`;
    }).join(" · ") : "";
    return el("figcaption", {}, variantName(index), values ? el("span", { class: "small" }, values) : null);
  }
  function cell(content, style, variant, ratio) {
    const at = byPlace.get(`${content} ${style} ${variant}`);
    const row = at === undefined ? null : report.rows[at];
    let frame;
    if (row && pictures.rows[at]) {
      frame = el("button", { class: "frame", type: "button", "aria-label": `Show ${names[variant]}, ${report.contents[content].name}, ${report.styles[style].name}` },
        el("img", { src: pictures.rows[at], alt: "", loading: "lazy", decoding: "async" }));
      frame.addEventListener("click", () => open(at));
    } else {
      frame = el("div", { class: `frame empty${row?.error ? " failed" : ""}` }, row?.error ? `failed: ${row.error}` : "not a style of this net");
    }
    const figure = el("figure", { class: "cell", style: { "--shape": ratio } }, frame, caption(variant, row));
    cells.push({ figure, content, style, variant, at: row && pictures.rows[at] ? at : null });
    return figure;
  }
  report.styles.forEach((style, styleAt) => {
    const group = el("section", { class: "painting", style: { padding: 0, border: 0 } }, el("h3", {}, style.name));
    report.contents.forEach((content, contentAt) => {
      const rows = painted.map((variant) => byPlace.get(`${contentAt} ${styleAt} ${variant}`)).filter((at) => at !== undefined);
      if (!rows.length) return;
      const sized = rows.map((at) => report.rows[at].size).find(([width]) => width > 0) ?? [4, 3];
      const ratio = shape(sized);
      const pair = el("div", { class: "pair" },
        source("photo", pictures.contents[contentAt], content.name, ratio),
        source("painting", pictures.styles[styleAt], style.name, ratio),
        painted.map((variant) => cell(contentAt, styleAt, variant, ratio)));
      pairs.push({ pair, content: contentAt, style: styleAt });
      group.append(pair);
    });
    groups.push({ group, style: styleAt });
    $("grid").append(group);
  });

  // ---- filters
  const option = (value, text) => el("option", { value }, text);
  const all = option("", "all");
  $("by-content").append(all.cloneNode(true), ...report.contents.map((content, at) => option(at, content.name)));
  $("by-style").append(all.cloneNode(true), ...report.styles.map((style, at) => option(at, style.name)));
  const settings = [...new Set(painted.map((index) => settingText(report.variants[index])))].filter(Boolean);
  $("by-setting").append(all.cloneNode(true), ...settings.map((setting) => option(setting, setting)));
  $("by-setting-part").hidden = !hasSettings;
  const chips = methods.map((method) => {
    const chip = el("button", { type: "button", "aria-pressed": "true" },
      el("span", { class: `dot ${colour(method)}`, "aria-hidden": "true" }), method);
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
    return chip;
  });
  $("methods").append(...chips);
  function filter() {
    const on = new Set(methods.filter((_, at) => chips[at].getAttribute("aria-pressed") === "true"));
    const [content, style, setting] = ["by-content", "by-style", "by-setting"].map((id) => $(id).value);
    const fits = (item) => (content === "" || item.content === Number(content)) && (style === "" || item.style === Number(style));
    let shown = 0;
    for (const item of cells) {
      const variant = report.variants[item.variant];
      // A method without settings has none to be filtered by.
      const own = settingText(variant);
      const visible = fits(item) && on.has(variant.method) && (setting === "" || own === "" || own === setting);
      item.figure.hidden = !visible;
      if (visible && item.at !== null) shown += 1;
    }
    for (const item of pairs) item.pair.hidden = !fits(item) || ![...item.pair.children].slice(2).some((child) => !child.hidden);
    for (const item of groups) item.group.hidden = ![...item.group.querySelectorAll(".pair")].some((pair) => !pair.hidden);
    const total = cells.filter((item) => item.at !== null).length;
    $("shown").textContent = shown === total ? count(total, "picture", "pictures") : `${shown} of ${count(total, "picture", "pictures")}`;
  }
  $("filters").addEventListener("change", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => {
    for (const chip of chips) chip.setAttribute("aria-pressed", "true");
    setTimeout(filter);
  });
  filter();

  // ---- the viewer
  const viewer = $("viewer");
  let current = null;
  let against = "photo";
  const visible = () => cells.filter((item) => item.at !== null && !item.figure.hidden);

  function slide(value) {
    const cut = Math.min(100, Math.max(0, Number(value)));
    $("slider").value = cut;
    $("stage").style.setProperty("--cut", `${cut}%`);
    $("slider").setAttribute("aria-valuetext", `${Math.round(cut)} % before`);
  }
  function beforeOf(row) {
    if (against === "painting") return [pictures.styles[row.style], "painting"];
    if (against !== "photo") {
      const other = byPlace.get(`${row.content} ${row.style} ${against}`);
      if (other !== undefined && pictures.rows[other]) return [pictures.rows[other], names[against]];
    }
    return [pictures.contents[row.content], "photo"];
  }
  function show(at) {
    current = at;
    const row = report.rows[at];
    const variant = report.variants[row.variant];
    $("viewer-title").replaceChildren(...variantName(row.variant).filter(Boolean),
      el("span", { class: "setting" }, ` · ${report.contents[row.content].name} as ${report.styles[row.style].name}`));
    $("stage").style.setProperty("--shape", shape(row.size));
    $("stage").style.setProperty("--ratio", (row.size[0] || 4) / (row.size[1] || 3));
    $("after").src = pictures.rows[at];
    $("after").alt = `${report.contents[row.content].name} painted by ${names[row.variant]} in the style of ${report.styles[row.style].name}`;
    const others = painted.filter((index) => index !== row.variant && pictures.rows[byPlace.get(`${row.content} ${row.style} ${index}`)]);
    if (against !== "photo" && against !== "painting" && !others.includes(Number(against))) against = "photo";
    $("against").replaceChildren(option("photo", "the photo"), option("painting", "the painting"), ...others.map((index) => option(index, names[index])));
    $("against").value = against;
    const [url, tag] = beforeOf(row);
    $("before").src = url ?? pictures.rows[at];
    $("before").alt = tag;
    $("before-tag").textContent = tag;
    $("after-tag").textContent = names[row.variant];
    $("values").replaceChildren(el("tbody", {},
      report.metrics.map((metric, index) => el("tr", {}, el("th", { scope: "row" }, metric.title), el("td", {}, number(row.values[index], metric.digits)))),
      el("tr", {}, el("th", { scope: "row" }, "size"), el("td", {}, `${row.size[0]} × ${row.size[1]}`)),
      el("tr", {}, el("th", { scope: "row" }, "time"), el("td", {}, seconds(row.seconds))),
      el("tr", {}, el("th", { scope: "row" }, "memory"), el("td", {}, bytes(row["peak-bytes"])))));
    $("viewer-notes").replaceChildren(
      ...row.warnings.map((warning) => el("p", { class: "warning" }, warning)),
      ...(row.error ? [el("p", { class: "failed-note" }, row.error)] : []),
      el("p", { class: "note" }, el("code", {}, row.picture)));
    $("recipe").textContent = JSON.stringify(row.recipe, null, 2);
  }
  function open(at) {
    slide(50);
    show(at);
    if (!viewer.open) viewer.showModal();
    viewer.focus({ preventScroll: true });
    viewer.scrollTop = 0;
  }
  function step(by) {
    const list = visible();
    const place = list.findIndex((item) => item.at === current);
    if (list.length) show(list[(place + by + list.length) % list.length].at);
  }
  function stepPair(by) {
    const list = visible().filter((item) => item.variant === report.rows[current].variant);
    const place = list.findIndex((item) => item.at === current);
    if (list.length) show(list[(place + by + list.length) % list.length].at);
  }
  $("slider").addEventListener("input", (event) => slide(event.target.value));
  $("against").addEventListener("change", (event) => {
    against = ["photo", "painting"].includes(event.target.value) ? event.target.value : Number(event.target.value);
    show(current);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => {
    const item = cells.find((one) => one.at === current);
    item?.figure.querySelector("button")?.focus();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const onSlider = event.target.id === "slider";
    const onControl = ["BUTTON", "SUMMARY"].includes(event.target.tagName);
    const value = Number($("slider").value);
    const keys = {
      ArrowLeft: onSlider ? null : () => step(-1),
      ArrowRight: onSlider ? null : () => step(1),
      ArrowUp: onSlider ? null : () => stepPair(-1),
      ArrowDown: onSlider ? null : () => stepPair(1),
      "[": () => slide(value - 5),
      "]": () => slide(value + 5),
      " ": onControl ? null : () => slide(value < 50 ? 100 : 0),
    };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  // ---- time and memory
  const timed = painted.filter((index) => summary.times[index]);
  const slowest = Math.max(...timed.map((index) => summary.times[index].seconds?.median ?? 0), 1e-9);
  const heaviest = Math.max(...timed.map((index) => summary.times[index].peak ?? 0), 1);
  const amount = (value, most, method) => value === null || value === undefined ? null
    : el("span", { class: `amount ${colour(method)}`, style: { width: `${(100 * value) / most}%` }, "aria-hidden": "true" });
  fill($("times"), ["Method", "A picture", "The first one", "Reading a style", "Loading nets", "Memory"].map((text) => heading(text)),
    timed.map((index) => {
      const time = summary.times[index];
      const { method } = report.variants[index];
      const median = time.seconds?.median ?? null;
      return el("tr", {}, el("th", { scope: "row" }, variantName(index)),
        el("td", { class: "bar-cell" }, seconds(median),
          time.seconds?.count > 1 ? el("span", { class: "small" }, `${seconds(time.seconds.low)} – ${seconds(time.seconds.high)}`) : null,
          amount(median, slowest, method)),
        el("td", {}, seconds(time.first)), el("td", {}, seconds(time.style)), el("td", {}, seconds(time.load)),
        el("td", { class: "bar-cell" }, bytes(time.peak), amount(time.peak, heaviest, method)));
    }));

  // ---- how it was made
  $("facts").append(el("tbody", {}, report.facts.map(([what, fact]) => el("tr", {}, el("th", { scope: "row" }, what), el("td", {}, fact)))));
  const went = (kind, one) => el("tr", {}, el("td", {}, kind), el("td", { class: "wide" }, one.path, el("br"), el("code", { class: "hash" }, one.sha256 ? `SHA-256 ${one.sha256}` : "could not be read")));
  $("sources").append(el("tbody", {}, report.contents.map((one) => went("photo", one)), report.styles.map((one) => went("painting", one))));
  if (failures.length) {
    fill($("failures"), [heading("Picture"), heading("Why")], failures.map((row) => el("tr", {},
      el("th", { scope: "row" }, `${names[row.variant]}: ${report.contents[row.content].name} as ${report.styles[row.style].name}`),
      el("td", { class: "wide" }, row.error))), true);
  } else $("failures-part").hidden = true;
})();
