// Charts: uPlot draws them; keyboards move their cursor, and CSV and SVG files leave them.
"use strict";
(() => {
  const { html, useState, useEffect, useRef, plain, value } = empo2;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Colours that colour-blind people can tell apart (Okabe and Ito), each with its own dash.
  const colours = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
  const dashes = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4], [1, 2]];
  const look = (i) => ({ colour: colours[i % colours.length], dash: dashes[i % dashes.length] });

  // useScheme changes when the reader's colour scheme does, so that charts are drawn again.
  function useScheme() {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const [dark, setDark] = useState(media.matches);
    useEffect(() => {
      const change = () => setDark(media.matches);
      media.addEventListener("change", change);
      return () => media.removeEventListener("change", change);
    }, []);
    return dark;
  }

  // whole are the distances of ticks of steps, episodes and tokens.
  const whole = [1, 2, 5].flatMap((n) => Array.from({ length: 12 }, (_, k) => n * 10 ** k)).sort((a, b) => a - b);

  function axes(chart, width) {
    const font = "11px system-ui, sans-serif";
    const base = { stroke: css("--muted"), font, ticks: { show: false }, grid: { stroke: css("--grid"), width: 1 } };
    const label = (unit) => (_, splits) => splits.map((v) => unit === "%" ? Math.round(v * 1000) / 10 + " %"
      : compact(v));
    const size = chart.small ? 46 : 50;
    const out = [
      { ...base, grid: { show: false }, incrs: whole, size: chart.small ? 20 : 26, space: width < 400 ? 70 : 60,
        values: (_, splits) => splits.map(compact), ...(chart.small ? {} : { label: chart.xLabel, labelSize: 18,
          labelGap: 0, labelFont: font }) },
      { ...base, scale: "y", size, space: 28, values: label(chart.unit) },
    ];
    if (chart.series.some((s) => s.right)) {
      out.push({ ...base, side: 1, scale: "right", size, space: 28, grid: { show: false }, values: label("") });
    }
    return out;
  }

  function compact(v) {
    if (v == null) return "";
    const size = Math.abs(v);
    if (size >= 1e6) return +(v / 1e6).toPrecision(3) + "M";
    if (size >= 1e4) return +(v / 1e3).toPrecision(3) + "k";
    if (size !== 0 && size < 1e-3) return v.toExponential(0).replace("-", "−");
    return String(+v.toPrecision(4)).replace("-", "−");
  }

  function seriesOptions(s) {
    if (s.bound) return { scale: s.right ? "right" : "y", stroke: "transparent", width: 0, points: { show: false },
      spanGaps: true };
    const colour = css(s.colour);
    return {
      scale: s.right ? "right" : "y", stroke: s.dots ? "transparent" : colour, width: s.thin ? 1 : 2, spanGaps: true,
      dash: s.dash, points: { show: Boolean(s.dots || s.points), size: s.dots ? 3 : 5, stroke: colour, fill: colour },
    };
  }

  // Ends of the axis of success: the curve of a run that begins is seen, too.
  const tops = [0.05, 0.1, 0.25, 0.5, 1];
  const ofSide = (chart, right) => chart.series.flatMap((s, i) => Boolean(s.right) === right ? chart.data[i + 1] : [])
    .filter((v) => v != null);

  // withTop sets full, where the axis of success ends. Returns between 0 and 1 have the same one.
  function withTop(chart) {
    const right = ofSide(chart, true);
    const most = Math.max(0, ...ofSide(chart, false), ...(right.every((v) => v >= 0 && v <= 1) ? right : []));
    return { ...chart, full: tops.find((top) => most <= top) ?? 1 };
  }

  // range keeps rates between 0 and 1, and gives a constant line some room.
  function range(chart) {
    return (_, low, high) => {
      if (chart.unit === "%") return [0, chart.full || Math.max(high || 0, 0.02) * 1.08];
      if (low == null) return [0, 1];
      if (low >= 0) return [0, high > 0 ? high * 1.08 : 1];
      const room = (high - low) * 0.08 || 1;
      return [low - room, high + room];
    };
  }

  // returns is the range of returns: that of success, if they are between 0 and 1.
  const returns = (chart) => (u, low, high) => low >= 0 && high <= 1 ? [0, chart.full || 1]
    : range({ unit: "" })(u, low, high);

  // drawEvents draws a line and a letter at each event.
  function drawEvents(chart) {
    return (u) => {
      const { ctx, bbox } = u;
      const ratio = devicePixelRatio;
      ctx.save();
      for (const event of chart.events || []) {
        const x = Math.round(u.valToPos(event.x, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.strokeStyle = css("--event-" + event.kind) || css("--muted");
        ctx.lineWidth = ratio;
        ctx.setLineDash([3 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    };
  }

  function plotOptions(chart, width, onIndex) {
    const fill = (name) => `color-mix(in srgb, ${css(name)} 18%, transparent)`;
    return {
      width, height: chart.height, legend: { show: false }, padding: [8, 8, 0, 0],
      scales: { x: { time: false }, y: { range: range(chart) }, right: { range: returns(chart) } },
      axes: axes(chart, width),
      series: [{}, ...chart.series.map(seriesOptions)],
      bands: (chart.bands || []).map(([high, low, colour]) => ({ series: [high + 1, low + 1], fill: fill(colour) })),
      cursor: { sync: { key: chart.sync || "step" }, points: { size: 7 }, drag: { x: false, y: false }, y: false },
      hooks: { setCursor: [(u) => onIndex(u.cursor.idx)], drawAxes: [drawEvents(chart)] },
    };
  }

  // readout says what the chart shows at an index, or at the last known values.
  function readout(chart, index) {
    const at = index == null ? "" : `${chart.xLabel} ${compact(chart.data[0][index])}: `;
    const parts = chart.series.flatMap((s, i) => {
      if (s.bound) return [];
      const values = chart.data[i + 1];
      let v = index == null ? values.findLast((v) => v != null) : values[index];
      if (v === undefined) v = null;
      return [{ series: s, text: value(v, s.right || chart.small && chart.unit !== "%" ? "" : chart.unit),
        interval: v == null ? "" : intervalAt(chart, s, index) }];
    });
    return { at, parts };
  }

  function intervalAt(chart, s, index) {
    if (s.low == null) return "";
    const low = chart.data[s.low + 1];
    const high = chart.data[s.high + 1];
    const i = index ?? low.findLastIndex((v) => v != null);
    if (low[i] == null) return "";
    return chart.unit === "%" ? ` [${(100 * low[i]).toFixed(1)}, ${(100 * high[i]).toFixed(1)}]`
      : ` [${empo2.number(low[i])}, ${empo2.number(high[i])}]`;
  }

  const spoken = ({ at, parts }) => at + parts.map((p) => `${p.series.name} ${p.text}${p.interval}`).join(", ");

  // Chart draws {title, xLabel, unit, height, data, series, bands, events}. data is that of
  // uPlot: the x values, then one list for each series.
  function Chart({ chart, onPlot }) {
    const box = useRef(null);
    const plot = useRef(null);
    const latest = useRef(chart);
    latest.current = chart;
    const dark = useScheme();
    const [index, setIndex] = useState(null);
    const shape = JSON.stringify([chart.series, chart.bands, chart.unit, chart.height, chart.events, chart.sync,
      chart.full, dark]);
    useEffect(() => {
      const target = box.current;
      const made = new uPlot(plotOptions(latest.current, Math.max(120, target.clientWidth), setIndex),
        latest.current.data, target);
      plot.current = made;
      onPlot?.(made);
      const sized = new ResizeObserver(() => {
        if (target.clientWidth) made.setSize({ width: target.clientWidth, height: latest.current.height });
      });
      sized.observe(target);
      return () => { sized.disconnect(); made.destroy(); plot.current = null; };
    }, [shape]);
    useEffect(() => { plot.current?.setData(chart.data); }, [chart.data]);
    const now = readout(chart, index < chart.data[0].length ? index : null);
    return html`<figure class=${chart.small ? "chart small-chart" : "chart"}>
      <${Legend} now=${now} chart=${chart} />
      <div class="plot" ref=${box} tabindex="0" role="img"
        aria-label=${`Chart, ${plain(chart.title)}. ${plain(spoken(readout(chart, null)))}`}
        onKeyDown=${(event) => plot.current && moveCursor(event, plot.current, index)}></div>
      <span class="sr" aria-live="polite">
        ${index != null && document.activeElement === box.current ? plain(spoken(now)) : ""}</span>
    </figure>`;
  }

  function Legend({ now, chart }) {
    return html`<figcaption class="legend">
      ${now.parts.map(({ series, text, interval }) => html`<span key=${series.name} class="key">
      ${chart.small && now.parts.length === 1 ? "" : html`<${Swatch} series=${series} />`}
      ${chart.small && now.parts.length === 1 ? "" : html`<span class="muted">${plain(series.name)}</span>`}
      <b>${text}</b>${interval && html`<span class="muted num">${interval}</span>`}</span>`)}
      <span class="muted at">${now.at.replace(": ", "") || (chart.small ? "" : "last")}</span></figcaption>`;
  }

  function Swatch({ series }) {
    const dash = (series.dash || []).join(" ");
    return html`<svg class="swatch" width="22" height="8" aria-hidden="true">${series.dots
      ? [4, 11, 18].map((x) => html`<circle cx=${x} cy="4" r="1.7" style=${{ fill: `var(${series.colour})` }} />`)
      : html`<line x1="0" x2="22" y1="4" y2="4" stroke-width="2" stroke-dasharray=${dash}
        style=${{ stroke: `var(${series.colour})` }} />`}</svg>`;
  }

  // moveCursor moves the cursor of a plot by a key.
  function moveCursor(event, u, index) {
    const last = u.data[0].length - 1;
    const from = index ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to == null) return;
    event.preventDefault();
    pointAt(u, u.data[0][Math.min(last, Math.max(0, to))]);
  }

  // pointAt moves the cursor of a plot, and of those beside it, to an x value.
  function pointAt(u, x) {
    u.setCursor({ left: u.valToPos(x, "x"), top: 10 }, true, true);
  }

  // csvText writes lines of values as the text of a CSV file.
  function csvText(lines) {
    const cell = (v) => {
      const text = String(v ?? "");
      const safe = /^[=+\-@\t\r]/.test(text) && isNaN(text) ? "'" + text : text; // spreadsheets run formulas
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  // csvOf returns a chart's data, one line for each x value.
  function csvOf(chart) {
    const head = [chart.xLabel, ...chart.series.map((s) => s.name)];
    const lines = chart.data[0].map((x, i) => [x, ...chart.series.map((_, k) => chart.data[k + 1][i])]);
    return csvText([head, ...lines]);
  }

  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  // SaveLines is the button that saves lines of values as a CSV file.
  const SaveLines = ({ lines, name }) => html`<button type="button" class="small"
    onClick=${() => save(name.replace(/[^A-Za-z0-9._-]+/g, "-") + ".csv", "text/csv", csvText(lines()))}>CSV</button>`;

  // Downloads are the buttons that save a chart.
  function Downloads({ chart, name }) {
    const file = name.replace(/[^A-Za-z0-9._-]+/g, "-");
    return html`<span class="downloads">
      <button type="button" class="small" onClick=${() => save(file + ".csv", "text/csv", csvOf(chart))}>CSV</button>
      <button type="button" class="small"
        onClick=${() => save(file + ".svg", "image/svg+xml", empo2.svgOf(chart))}>SVG</button></span>`;
  }

  Object.assign(empo2, { Chart, Swatch, SaveLines, withTop, Downloads, look, pointAt, compact, csvOf, css });
})();
