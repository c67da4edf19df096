// Charts as SVG files, for papers and slides. They use the light scheme.
"use strict";
(() => {
  const { compact, plain } = empo2;
  const space = "http://www.w3.org/2000/svg";
  const size = { width: 760, height: 380, left: 56, right: 56, top: 40, bottom: 44 };
  const light = ["#0072b2", "#b34d00", "#007a5a", "#9b4f83", "#8a6d00", "#3b3b3b", "#2a7ab8"];
  const colourOf = (name) => light[Number(name.slice(3)) || 0] || light[5];

  function add(parent, name, attributes, text) {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text != null) element.textContent = plain(text);
    parent.append(element);
    return element;
  }

  const finite = (lists) => lists.flat().filter((v) => v != null && isFinite(v));

  // extent is the range of an axis and round values in it.
  function extent(values, fixed) {
    let [low, high] = fixed || [Math.min(0, ...values), Math.max(...values)];
    if (!(high > low)) high = low + 1;
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const ticks = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) ticks.push(+t.toPrecision(12));
    return { low, high, ticks };
  }

  function scales(chart) {
    const pick = (right) => finite(chart.data.slice(1).filter((_, i) => Boolean(chart.series[i].right) === right));
    const share = (axis, v) => (v - axis.low) / (axis.high - axis.low);
    const across = (axis) => (v) => size.left + share(axis, v) * (size.width - size.left - size.right);
    const up = (axis) => (v) => size.height - size.bottom - share(axis, v) * (size.height - size.top - size.bottom);
    const x = extent(finite([chart.data[0]]));
    const y = extent(pick(false), chart.full ? [0, chart.full] : null);
    const fits = pick(true).every((v) => v >= 0 && v <= 1);
    const right = extent(pick(true), chart.full && fits ? [0, chart.full] : null);
    return { x, y, right, px: across(x), py: up(y), pr: up(right), hasRight: pick(true).length > 0 };
  }

  function drawAxes(svg, chart, s) {
    const label = (v) => chart.unit === "%" ? compact(v * 100) + " %" : compact(v);
    for (const t of s.y.ticks) {
      add(svg, "line", { x1: size.left, x2: size.width - size.right, y1: s.py(t), y2: s.py(t), stroke: "#e2e4e7" });
      add(svg, "text", { x: size.left - 8, y: s.py(t) + 4, "text-anchor": "end" }, label(t));
    }
    if (s.hasRight) {
      for (const t of s.right.ticks) add(svg, "text", { x: size.width - size.right + 8, y: s.pr(t) + 4 }, compact(t));
    }
    for (const t of s.x.ticks) {
      add(svg, "text", { x: s.px(t), y: size.height - size.bottom + 18, "text-anchor": "middle" }, compact(t));
    }
    add(svg, "text", { x: (size.width - size.right + size.left) / 2, y: size.height - 8, "text-anchor": "middle" },
      chart.xLabel);
    add(svg, "text", { x: 8, y: 18, "font-weight": 600 }, chart.title + (chart.unit ? `, ${chart.unit}` : ""));
  }

  function drawSeries(svg, chart, s, i) {
    const one = chart.series[i];
    const up = one.right ? s.pr : s.py;
    const points = chart.data[0].map((x, k) => [x, chart.data[i + 1][k]]).filter(([, y]) => y != null)
      .map(([x, y]) => [s.px(x).toFixed(1), up(y).toFixed(1)]);
    const colour = colourOf(one.colour);
    if (one.dots) {
      for (const [cx, cy] of points) add(svg, "circle", { cx, cy, r: 1.6, fill: colour });
      return;
    }
    add(svg, "polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2,
      "stroke-dasharray": (one.dash || []).join(" ") });
    if (one.points) for (const [cx, cy] of points) add(svg, "circle", { cx, cy, r: 2.5, fill: colour });
  }

  function drawBand(svg, chart, s, [high, low, colour]) {
    const known = chart.data[0].map((_, k) => k).filter((k) => chart.data[low + 1][k] != null);
    const point = (x, y) => `${s.px(x).toFixed(1)},${s.py(y).toFixed(1)}`;
    const edge = (i, ks) => ks.map((k) => point(chart.data[0][k], chart.data[i + 1][k]));
    add(svg, "polygon", { points: [...edge(high, known), ...edge(low, known.toReversed())].join(" "),
      fill: colourOf(colour), "fill-opacity": 0.15 });
  }

  // svgOf returns a chart as the text of an SVG file.
  empo2.svgOf = (chart) => {
    const svg = document.createElementNS(space, "svg");
    const names = chart.series.filter((s) => !s.bound);
    const legend = 18 * names.length;
    svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height + legend}`);
    svg.setAttribute("font-family", "system-ui, sans-serif");
    svg.setAttribute("font-size", 12);
    add(svg, "rect", { width: size.width, height: size.height + legend, fill: "#fff" });
    const s = scales(chart);
    drawAxes(svg, chart, s);
    (chart.bands || []).forEach((band) => drawBand(svg, chart, s, band));
    chart.series.forEach((one, i) => one.bound || drawSeries(svg, chart, s, i));
    names.forEach((one, i) => {
      const y = size.height + 18 * i + 4;
      add(svg, "line", { x1: size.left, x2: size.left + 24, y1: y, y2: y, stroke: colourOf(one.colour),
        "stroke-width": one.dots ? 4 : 2,
        "stroke-dasharray": one.dots ? "2 6" : (one.dash || []).join(" ") });
      add(svg, "text", { x: size.left + 32, y: y + 4 }, one.name);
    });
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + new XMLSerializer().serializeToString(svg);
  };
})();
