"use strict";
// Names and values from the data are inserted by textContent, never innerHTML, so they stay text.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const decode = (text, Kind) =>
    new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const thresholds = decode(data.thresholds, Float64Array);
  const nAbove = decode(data.nAbove, Float64Array);
  const nOutliersAbove = data.nOutliersAbove && decode(data.nOutliersAbove, Float64Array);
  const points = {
    ...data.points,
    scores: decode(data.points.scores, Float64Array),
    x: decode(data.points.x, Float32Array),
    y: decode(data.points.y, Float32Array),
  };
  const values = decode(data.values, Float32Array);

  // As format_number in Python: four significant digits, or an integer from 10,000 to a billion.
  const round = (x) => {
    const size = Math.abs(x);
    if (size < 1e9 && (Number.isInteger(x) || size >= 1e4)) return Math.round(x);
    return Number(x.toPrecision(4));
  };
  const formatNumber = (x) => {
    const rounded = round(x), size = Math.abs(rounded);
    const isPlain = rounded === 0 || (size >= 1e-4 && size < 1e9);
    return isPlain ? rounded.toLocaleString("en", {maximumFractionDigits: 8}) : String(rounded);
  };
  const formatCount = (n) => n.toLocaleString("en");
  /** With as many decimals as the largest of these numbers needs, so that they can be compared. */
  const formatTogether = (x, largest) => {
    if (largest >= 1e9 || largest < 1e-4) return formatNumber(x);
    const decimals = Math.max(0, 3 - Math.floor(Math.log10(largest)));
    const digits = Math.min(decimals, largest < 1 ? 8 : 2);
    return x.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
  };
  const formatPercent = (share) => `${(100 * share).toFixed(share && share < 0.001 ? 2 : 1)}%`;

  function element(name, text, className) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  // ---------------------------------------------------------------- the threshold

  let threshold = data.start;

  /** Index of the last known threshold that does not exceed t; -1 if all exceed it. */
  function stepOf(t) {
    let low = 0, high = thresholds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (thresholds[middle] <= t) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  function showCounts() {
    const step = stepOf(threshold);
    const flagged = step < 0 ? data.nRows : nAbove[step];
    byId("n-flagged").textContent = formatCount(flagged);
    byId("share-flagged").textContent = `${formatPercent(flagged / data.nRows)} of the rows`;
    byId("threshold-now").textContent = formatNumber(threshold);
    if (!nOutliersAbove) return;
    const tp = step < 0 ? data.nOutliers : nOutliersAbove[step];
    const fp = flagged - tp, fn = data.nOutliers - tp;
    const counts = {tp, fp, fn, tn: data.nRows - tp - fp - fn};
    for (const [id, n] of Object.entries(counts)) byId(id).textContent = formatCount(n);
    const share = (n, of) => (of ? (n / of).toFixed(3) : "none");
    byId("precision").textContent = share(tp, flagged);
    byId("recall").textContent = share(tp, data.nOutliers);
    byId("f1").textContent = share(2 * tp, flagged + data.nOutliers);
  }

  function showFlags() {
    for (const row of byId("ranked").tBodies[0].rows) {
      const cell = row.querySelector(".is-flagged");
      const isFlagged = Number(row.dataset.score) > threshold;
      cell.textContent = isFlagged ? "yes" : "no";
      cell.classList.toggle("yes", isFlagged);
    }
  }

  // ---------------------------------------------------------------- tables

  function sortBy(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = Array.from(body.rows, (row) => [key(row), row]);
    const areNumbers = rows.every(([text]) => text.trim() !== "" && !Number.isNaN(Number(text)));
    // The first click sorts numbers from the largest, except ranks, and words from A.
    const first = areNumbers && column > 0 ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = head.getAttribute("aria-sort") === first ? other : first;
    const sign = direction === "ascending" ? 1 : -1;
    const compare = areNumbers ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", {numeric: true});
    rows.sort(([a], [b]) => sign * compare(a, b));
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    body.append(...rows.map(([, row]) => row));
  }

  const isNarrow = matchMedia("(max-width: 860px)");

  /** Make a table sort by its columns, and call choose for the row that is clicked. */
  function makeTable(table, choose, shown) {
    function select(row) {
      for (const other of table.tBodies[0].rows) other.classList.toggle("chosen", other === row);
      choose(Number(row.dataset.index));
    }
    Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
      cell.querySelector("button").addEventListener("click", () => sortBy(table, column));
    });
    for (const bar of table.querySelectorAll(".bar")) bar.style.width = `${60 * bar.dataset.share}px`;
    for (const row of table.tBodies[0].rows) {
      row.addEventListener("click", () => {
        select(row);
        // Where it lies below the table, bring into view what the click shows.
        if (isNarrow.matches) shown.scrollIntoView({block: "nearest"});
      });
    }
    select(table.tBodies[0].rows[0]);
  }

  function showRow(index) {
    const row = data.ranked[index];
    const table = element("table", undefined, "detail");
    const withDeviation = row.contributions.some((part) => part[3] !== null);
    // The soft hyphens keep the columns narrow.
    const heads = ["Feature", "Contri\u00adbution", "Value", "Recon\u00adstruction"];
    if (withDeviation) heads.push("SDs from mean");
    const head = table.createTHead().insertRow();
    heads.forEach((text) => head.append(element("th", text)));
    const body = table.createTBody();
    const largest = Math.max(...row.contributions.map((part) => Math.abs(part[4])), Number.MIN_VALUE);
    const addContribution = (line, size) => {
      const cell = line.insertCell();
      const bar = element("span", undefined, size < 0 ? "bar less" : "bar");
      bar.style.width = `${Math.min(70, (70 * Math.abs(size)) / largest)}px`;
      const text = formatTogether(Math.abs(size), largest);
      cell.append(bar, (size < 0 ? "\u2212" : "+") + text);
    };
    for (const [name, value, reconstruction, deviation, size] of row.contributions) {
      const line = body.insertRow();
      line.append(element("td", name));
      addContribution(line, size);
      for (const text of [value, reconstruction]) {
        line.append(element("td", text, text.length > 10 ? "n long" : "n"));
      }
      if (withDeviation) line.append(element("td", deviation ?? "", "n"));
    }
    if (row.nRest) {
      const line = body.insertRow();
      line.append(element("td", row.nRest === 1 ? "1 other" : `${formatCount(row.nRest)} others`));
      addContribution(line, row.rest);
      line.insertCell().colSpan = heads.length - 2;
    }
    byId("row-detail").replaceChildren(
      element("h3", `Row ${row.name}: score ${row.score}`),
      table,
      element("p", "The reconstruction is the network's output for the value. " +
        (withDeviation ? "Mean and standard deviation (SD) are those of the training rows. " : "") +
        "A negative contribution (empty bar) lowers the score. Contributions add up to the score or, " +
        "for some score heads, to its difference from the mean score of the training rows.", "note"),
    );
  }

  // ---------------------------------------------------------------- figures

  const isDark = matchMedia("(prefers-color-scheme: dark)");

  /** Give the figures the colours of the page, light or dark. */
  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [ink, paper, grid, blue] = ["ink", "paper", "grid", "blue"].map((name) =>
      style.getPropertyValue(`--${name}`).trim());
    for (const figure of Bokeh.documents.flatMap((d) => d.roots())) {
      figure.background_fill_color = figure.border_fill_color = paper;
      for (const axis of [...figure.left, ...figure.below]) {
        axis.axis_label_text_color = axis.major_label_text_color = ink;
        axis.axis_line_color = axis.major_tick_line_color = ink;
      }
      for (const part of figure.center) {
        if (part.type === "Grid") part.grid_line_color = grid;
        if (part.type === "Legend") {
          part.background_fill_color = paper;
          part.label_text_color = ink;
        }
        if (part.type === "Span") {
          part.line_color = blue;
          part.hover_line_color = ink;
        }
      }
      for (const {name, glyph} of figure.renderers) {
        if (name === "below") glyph.fill_color = {value: blue};
        else glyph.line_color = {value: ink};
      }
    }
  }

  async function showFigures() {
    const items = JSON.parse(byId("figures").textContent);
    await Promise.all(
      Object.entries(items).map(([id, item]) => Bokeh.embed.embed_item(item, byId(id))));
    const model = (name) => Bokeh.documents.map((d) => d.get_model_by_name(name)).find(Boolean);
    const line = model("threshold"), above = model("above"), level = model("feature-threshold");
    const [low, high] = data.range;

    const marker = (i) => (points.labels && points.labels[i] ? "triangle" : "circle");
    const all = points.names.map((_, i) => i);
    const scatters = [["latent", all], ["feature", points.withValues]].map(([name, indices]) => ({
      source: model(name),
      filters: {below: model(`${name}-below`), above: model(`${name}-above`)},
      scores: indices.map((i) => points.scores[i]),
      columns: {
        row: indices.map((i) => points.names[i]),
        score: indices.map((i) => formatNumber(points.scores[i])),
        marker: indices.map(marker),
        // Outliers that are not flagged stand out from the many inliers.
        size: indices.map((i) => (marker(i) === "triangle" ? 9 : 5)),
      },
    }));
    const [latent, feature] = scatters;
    latent.source.data = {...latent.columns, x: Array.from(points.x), y: Array.from(points.y)};

    function showFeature(index) {
      const n = points.withValues.length;
      const {name, axis} = data.features[index];
      const isTime = axis === "time", isCategory = Array.isArray(axis);
      byId("feature-name").textContent = name;
      for (const [shown, isShown] of [
        ["number", !isTime && !isCategory], ["time", isTime], ["category", isCategory]]) {
        model(`${shown}-axis`).visible = isShown;
        model(`${shown}-axis`).axis_label = name;
      }
      let x = Array.from(values.subarray(index * n, (index + 1) * n)), texts;
      if (isTime) {
        x = x.map((days) => days * 864e5);
        texts = x.map((t) => (Number.isNaN(t) ? "missing" : new Date(t).toISOString().slice(0, 16)));
      } else if (isCategory) {
        texts = x.map((i) => axis[i]);
        model("category-axis").ticker.ticks = axis.map((_, i) => i);
        model("category-axis").major_label_overrides = new Map(axis.map((text, i) => [i, text]));
        model("category-axis").major_label_orientation = axis.length > 8 ? "vertical" : "horizontal";
      } else texts = x.map(formatNumber);
      feature.source.data = {
        ...feature.columns,
        value: texts,
        x,
        y: feature.scores.map((score) => Math.min(score, high)),
      };
    }

    function showPoints() {
      for (const {filters, scores} of scatters) {
        const flags = scores.map((score) => score > threshold);
        filters.above.booleans = flags;
        filters.below.booleans = flags.map((flag) => !flag);
      }
    }

    const slider = byId("threshold-slider"), typed = byId("threshold-number");
    let waiting, isMoving = false;
    function moveTo(t) {
      if (isMoving || !Number.isFinite(t)) return;
      isMoving = true;
      threshold = t;
      line.location = Math.min(Math.max(t, low), high);
      above.left = line.location;
      level.location = t;
      slider.value = high > low ? (1000 * (t - low)) / (high - low) : 0;
      slider.ariaValueText = formatNumber(t);
      if (document.activeElement !== typed) typed.value = round(t);
      showCounts();
      clearTimeout(waiting);
      // There may be thousands of points: redraw them only when the threshold rests.
      waiting = setTimeout(() => { showFlags(); showPoints(); }, 60);
      isMoving = false;
    }

    /** A threshold whose counts are known: with very many rows, those between two steps are not. */
    const known = (t) => (data.isComplete ? t : thresholds[Math.max(stepOf(t), 0)]);

    typed.step = 10 ** Math.floor(Math.log10((high - low) / 50));
    slider.addEventListener("input", () => {
      const share = slider.valueAsNumber / 1000;
      moveTo(known((1 - share) * low + share * high));  // this form is exact at both ends
    });
    typed.addEventListener("input", () => moveTo(known(typed.valueAsNumber)));
    typed.addEventListener("blur", () => { typed.value = round(threshold); });
    byId("threshold-reset").addEventListener("click", () => moveTo(data.start));
    line.properties.location.change.connect(() => moveTo(known(Math.min(Math.max(line.location, low), high))));

    makeTable(byId("features"), showFeature, byId("feature-detail"));
    moveTo(data.start);
    paint();
    isDark.addEventListener("change", paint);
  }

  makeTable(byId("ranked"), showRow, byId("row-detail"));
  showCounts();
  showFlags();
  showFigures().then(() => { document.documentElement.dataset.ready = "true"; });
})();
