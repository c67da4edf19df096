// Now: what the run does, how well it goes, and what happened.
"use strict";
(() => {
  const { html, useState, useEffect, useMemo, useRef, useAnswer, useThrottled, apiPath, usePageTitle, plain, Foreign,
    whole,
    percent, signed,
    value, duration, since, Term, Chart, Downloads, look } = empo2;

  function Now({ run, params, generation, state }) {
    usePageTitle("Now, " + plain(run));
    const now = useAnswer(apiPath(run, "now"), generation);
    const long = now.data?.overview.steps > 500; // the curves of a long run are large
    const newest = now.data ? now.data.news + " " + now.data.live : now.problem ? "unknown" : "";
    const news = useThrottled(newest, long ? 5000 : 1000);
    const series = useAnswer(news ? apiPath(run, "series") : null, news);
    return html`<h1 class="sr">Now: ${plain(run)}</h1>
      <${empo2.Problem} problem=${now.problem} />
      ${now.data ? html`<${Overview} now=${now.data}
        ended=${state === "ended"} />` : now.problem ? "" : html`<${empo2.Loading} />`}
      ${now.problem && series.problem ? "" : html`<${empo2.Problem} problem=${series.problem} />`}
      ${now.data && !series.data && !series.problem && html`<${empo2.Loading} />`}
      ${series.data && html`<${Curves} run=${run} series=${series.data} params=${params} />`}`;
  }

  function Overview({ now, ended }) {
    const { overview } = now;
    const facts = [["steps", whole(overview.steps)], ["version", whole(overview.version)],
      ["training episodes", whole(overview.episodes)], ["evaluated", whole(overview.evaluated)],
      ["failed", whole(overview.failed)], ["on disk", bytes(overview.bytes)]];
    if (now.run_eta_s != null) facts.push(["ready in about", duration(now.run_eta_s)]);
    if (now.ended) facts.push(["ended", plain(now.ended)]);
    return html`<section class="card status" aria-label="State of the run">
      ${now.live && !ended && (now.phase ? html`<${Phase} phase=${now.phase} />` : html`<p class="phase-none">
        ${now.doing ? plain(now.doing) : "The run goes on. It has not said what it does."}</p>`)}
      <dl class="facts">${facts.map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${text}</dd></div>`)}
        </dl>
      ${now.live && !ended && now.inflight?.length > 0 && html`<${InFlight} all=${now.inflight} />`}
    </section>
    <${Health} all=${now.health} />
    <section aria-label="Key figures" class="tiles">
      ${(now.tiles || []).map((tile) => html`<${Tile} key=${tile.key} tile=${tile} />`)}</section>`;
  }

  const bytes = (n) => n == null ? "–" : n < 1e6 ? whole(n / 1e3) + " kB" : n < 1e9 ? (n / 1e6).toFixed(1) + " MB"
    : (n / 1e9).toFixed(1) + " GB";

  // useClock renders once a second, so that ages are right.
  function useClock() {
    const [, tick] = useState(0);
    useEffect(() => {
      const timer = setInterval(() => tick((n) => n + 1), 1000);
      return () => clearInterval(timer);
    }, []);
  }

  function Phase({ phase }) {
    useClock();
    const known = phase.total > 0;
    const share = known ? Math.min(1, phase.done / phase.total) : null;
    return html`<div class="phase">
      <div class="row"><span><${Term} k="phase"><b>${plain(phase.name)}</b><//>
        ${phase.step != null && html` <span class="muted">step</span> ${whole(phase.step)}${
        phase.of > 0 ? html`<span class="muted"> of ${whole(phase.of)}</span>` : ""}`}
        ${phase.beside?.name && html`<span class="muted">, beside it </span>${plain(phase.beside.name)}
          <span class="muted"> of step</span> ${whole(phase.beside.step)}${
          phase.beside.total > 0 ? `: ${whole(phase.beside.done)} / ${whole(phase.beside.total)} ${
            plain(phase.beside.unit)}` : ""}`}</span>
        <span class="num">
          ${known ? `${whole(phase.done)} / ${whole(phase.total)} ${plain(phase.unit)}` : plain(phase.detail)}
        <span class="muted"> for ${since(phase.since)}</span>
          ${phase.eta_s != null && html`<span class="muted">, ready in about </span>${duration(phase.eta_s)}`}</span>
          </div>
      <progress aria-label=${"Progress of the phase " + plain(phase.name)} max="1" value=${share}></progress></div>`;
  }

  function InFlight({ all }) {
    useClock();
    return html`<details><summary>
      ${whole(all.length)} in flight, the oldest for ${since(all.map((one) => one.since).sort()[0])}</summary>
      <ul class="plain">${all.map((one, i) => html`<li key=${i}><b>${plain(one.what)}
        </b> <${Foreign} text=${one.detail} /> <span class="muted num">${since(one.since)}</span>
        ${one.others > 0 && html`<span class="muted"> and ${whole(one.others)} others</span>`}</li>`)}</ul>
        </details>`;
  }

  const levels = { ok: "fine", info: "note", warning: "warning", error: "error" };

  function Health({ all }) {
    if (!all?.length) return "";
    return html`<ul class="health" aria-label="Health">
      ${all.map((one) => html`<li key=${one.text} class=${"health-" + one.level}>
      <span class="badge">${levels[one.level] || plain(one.level)}</span> <${Foreign} text=${one.text} /></li>`)}</ul>`;
  }

  function Tile({ tile }) {
    const change = tile.change;
    const better = { success_without: 1, success_with: 1, cut: -1, no_gradient: -1, empty: -1, no_action: -1,
      cut_tips: -1,
      context_full: -1, failed: -1 }[tile.key] || 0;
    const tone = !change || !better ? "" : change * better > 0 ? "good" : "bad";
    return html`<div class="card tile"><h2><${Term} k=${tile.key}>${plain(tile.label)}<//></h2>
      <p class="big">${value(tile.value, tile.unit)}</p>
      ${tile.low != null && html`<${Interval} tile=${tile} />`}
      <p class="muted num">
        ${tile.value == null ? "not known yet" : change == null ? "no earlier value" : change === 0 ? "unchanged"
          : html`before ${value(tile.value - change, tile.unit)},
        <span class=${tone}> ${signed(change, (v) => tile.unit === "%" ? percent(v).replace(" %", "") : value(v,
          tile.unit))}</span>`}</p></div>`;
  }

  // Interval shows a 95 % interval as numbers, and as a bar for rates.
  function Interval({ tile }) {
    const at = (v) => (100 * Math.min(1, Math.max(0, v))).toFixed(1) + "%";
    const text = tile.unit === "%" ? `${(100 * tile.low).toFixed(1)} to ${percent(tile.high)}`
      : `${value(tile.low)} to ${value(tile.high, tile.unit)}`;
    return html`${tile.unit === "%" && html`<div class="range" aria-hidden="true">
      <span class="range-bar" style=${{ left: at(tile.low), width: at(tile.high - tile.low) }} />
      <span class="range-dot" style=${{ left: at(tile.value) }} /></div>`}
      <p class="num"><${Term} k="interval"><span class="muted">95 %: </span><//>
        ${text}${tile.n != null && html`<span class="muted"> · n ${whole(tile.n)}</span>`}</p>`;
  }

  const xs = { step: "step", episodes: "training episodes", tokens: "trained tokens", seconds: "seconds of training" };

  // position returns the x value of a step: that of the newest line at or before it.
  function position(x, key) {
    const steps = x.step || [];
    return (step) => {
      if (key === "step") return step;
      let at = 0;
      for (let i = 0; i < steps.length && steps[i] <= step; i++) at = x[key]?.[i] ?? at;
      return at;
    };
  }

  // evaluationChart is the curve of evaluations with the training returns behind it.
  function evaluationChart(series, key, split) {
    const at = position(series.x, key);
    const points = new Map(); // by x
    const point = (x) => points.get(x) || points.set(x, Array(8).fill(null)).get(x);
    const steps = series.x.step || [];
    steps.forEach((step, i) => {
      const p = point(at(step));
      p[0] = series.lines.return_without?.[i] ?? null;
      p[1] = series.lines.return_with?.[i] ?? null;
    });
    for (const e of series.evaluations || []) {
      if (e.split !== split) continue;
      const p = point(at(e.step));
      p.splice(e.with_tips ? 5 : 2, 3, e.low, e.high, e.rate);
    }
    const sorted = [...points].sort((a, b) => a[0] - b[0]);
    const bounds = [{ name: "low", bound: true }, { name: "high", bound: true }];
    const named = (text) => bounds.map((b) => ({ ...b, name: `${text}, ${b.name}` }));
    const columns = [
      { name: "training return without tips", colour: "--c5", dots: true, right: true },
      { name: "training return with tips", colour: "--c4", dots: true, right: true },
      ...named("success without tips"),
      { name: "success without tips", ...{ colour: "--c0", dash: [] }, points: true, low: 2, high: 3 },
      ...named("success with tips"),
      { name: "success with tips", colour: "--c1", dash: [7, 3], points: true, low: 5, high: 6 },
    ];
    return empo2.withTop(withoutEmpty({ title: `success in evaluations (${split})`, xLabel: xs[key], unit: "%",
      height: 280,
      sync: key === "step" ? "step" : "x-" + key, series: columns, bands: [[3, 2, "--c0"], [6, 5, "--c1"]],
      data: [sorted.map(([x]) => x), ...columns.map((_, i) => sorted.map(([, p]) => p[i]))],
      events: (series.events || []).filter((e) => e.step != null).map((e) => ({ x: at(e.step), kind: e.kind })) }));
  }

  // withoutEmpty drops series without a value.
  function withoutEmpty(chart) {
    const keep = chart.series.map((_, i) => i).filter((i) => chart.data[i + 1].some((v) => v != null));
    const moved = (i) => i == null ? undefined : keep.indexOf(i);
    return { ...chart, data: [chart.data[0], ...keep.map((i) => chart.data[i + 1])],
      series: keep.map((i) => ({ ...chart.series[i], low: moved(chart.series[i].low),
        high: moved(chart.series[i].high) })),
      bands: (chart.bands || []).filter(([h]) => keep.includes(h)).map(([h, l, c]) => [moved(h), moved(l), c]) };
  }

  const small = [
    { key: "kl", unit: "nats", lines: { kl: "KL" } },
    { key: "entropy", unit: "nats", lines: { entropy: "entropy" } },
    { key: "mismatch", unit: "nats", lines: { mismatch: "mean", mismatch_max: "largest" } },
    { key: "masked", unit: "%", lines: { masked: "masked" } },
    { key: "ratio", unit: "", lines: { ratio: "mean", ratio_max: "largest" } },
    { key: "grad_norm", unit: "", lines: { grad_norm: "gradient norm" } },
    { key: "lost", unit: "%", lines: { cut: "replies cut", empty: "empty", no_action: "no valid action",
      cut_tips: "tips cut", context_full: "context full" } },
    { key: "training_success", title: "success in training", unit: "%", lines: { success_without: "without tips",
      success_with: "with tips" } },
    { key: "no_gradient", unit: "%", lines: { flat: "without gradient", no_gradient: "without gradient" } },
    { key: "seconds", title: "seconds by phase", unit: "s", lines: { seconds_sampling: "sampling",
      seconds_reflection: "reflection",
      seconds_training: "training", seconds_publishing: "publishing", seconds_evaluation: "evaluation",
        seconds_total: "all" } },
    { key: "idle", unit: "%", lines: { idle_server: "server", idle_trainer: "trainer" } },
    { key: "staleness", unit: "updates", lines: { staleness: "mean", staleness_max: "largest",
      groups_stale: "groups dropped" } },
    { key: "tokens", title: "tokens by phase", unit: "", lines: { tokens_sampling: "sampling",
      tokens_reflection: "reflection", row_tokens: "training", trained: "of these with a loss" } },
  ];
  const charted = new Set([...small.flatMap((s) => Object.keys(s.lines)), "return_without", "return_with"]);

  function smallChart(series, one, key) {
    const at = position(series.x, key);
    const names = Object.keys(one.lines).filter((name) => series.lines[name]?.some((v) => v != null));
    if (!names.length) return null;
    return { key: one.key, title: one.title || empo2.termOf(one.key)?.[0] || one.key, unit: one.unit, xLabel: xs[key],
      height: 110, small: true,
      sync: key === "step" ? "step" : "x-" + key, data: [series.x.step.map(at),
        ...names.map((name) => series.lines[name])],
      series: names.map((name, i) => ({ name: one.lines[name], ...look(i), thin: true })) };
  }

  function Curves({ run, series, params }) {
    const plot = useRef(null);
    const key = xs[params.x] ? params.x : "step";
    const splits = [...new Set((series.evaluations || []).map((e) => e.split))];
    const split = splits.includes(params.split) ? params.split : splits.includes("eval") ? "eval" : splits[0] || "eval";
    const main = useMemo(() => evaluationChart(series, key, split), [series, key, split]);
    const charts = useMemo(() => small.map((one) => smallChart(series, one, key)).filter(Boolean), [series, key]);
    const more = useMemo(() => Object.keys(series.lines).filter((name) => !charted.has(name))
      .map((name) => smallChart(series, { key: name, unit: "",
        title: empo2.termOf(name)?.[0] || name.replaceAll("_", " "), lines: { [name]: name } }, key))
      .filter(Boolean), [series, key]);
    const set = (change) => empo2.go(empo2.address("now", run, { ...params, ...change }), true);
    return html`<section class="card" aria-labelledby="curve-title">
        <div class="row"><h2 id="curve-title">Success in evaluations</h2><span class="tools">
          ${splits.length > 1 && html`<${empo2.Choice} label="split" value=${split} options=${splits}
            onChange=${(v) => set({ split: v })} />`}
          <${empo2.Choice} label="against" value=${key} options=${Object.keys(xs)} names=${xs}
            onChange=${(v) => set({ x: v })} />
          <${Downloads} chart=${main} name=${run + "-evaluations"} />
          ${!empo2.isFile && html`<a class="button small" download href=${apiPath(run, "csv")}>all steps</a>`}</span>
            </div>
        ${main.data[0].length === 0 ? html`<p
          class="empty">No step and no evaluation is stored yet. The curve begins with the first one.</p>`
          : html`<${Chart} chart=${main} onPlot=${(u) => { plot.current = u; }} />
          <p class="note muted">Left: success, with its <${Term} k="interval" />. Dots, right: mean <${Term}
            k="return" /> of the training episodes of a step.</p>`}
        <${Events} all=${series.events || []}
          onPoint=${(step) => plot.current && empo2.pointAt(plot.current, position(series.x, key)(step))} />
      </section>
      ${charts.length > 0 && html`<section aria-label="Measures of training"><div class="multiples">
        ${charts.map((chart) => html`<${Multiple} key=${chart.key} chart=${chart} run=${run} />`)}</div></section>`}
      ${more.length > 0 && html`<details class="more"><summary>${more.length} more series</summary>
        <div class="multiples">
          ${more.map((chart) => html`<${Multiple} key=${chart.key} chart=${chart} run=${run} />`)}</div></details>`}`;
  }

  function Multiple({ chart, run }) {
    return html`<div class="card multiple"><div class="row"><h2><${Term} k=${chart.key}>${plain(chart.title)}<//>
      ${chart.unit && html`<span class="muted">, ${chart.unit}</span>`}</h2>
      <${Downloads} chart=${chart} name=${run + "-" + chart.key} /></div><${Chart} chart=${chart} /></div>`;
  }

  const kinds = { prompt: "prompt", warning: "warning", restart: "restart", mismatch: "mismatch", config: "config" };

  // Events is the strip of what happened, the newest first.
  function Events({ all, onPoint }) {
    const [limit, setLimit] = useState(6);
    if (!all.length) return html`<p class="note muted">No events: no prompt was changed, no warning, no restart.</p>`;
    const shown = all.toReversed().slice(0, limit);
    return html`<h3>Events</h3><ul class="events" onKeyDown=${empo2.arrows("button.event")}>
      ${shown.map((e, i) => html`<li key=${all.length - i}>
      <button type="button" class="event" onMouseEnter=${() => onPoint(e.step)} onFocus=${() => onPoint(e.step)}>
        <span class=${"kind kind-" + (kinds[e.kind] || "other")}>${plain(e.kind)}</span>
        <span class="muted num">${e.step != null ? "step " + whole(e.step) : ""} ${empo2.when(e.at)}</span></button>
      <${Foreign} text=${e.text} /></li>`)}</ul>
      ${all.length > limit && html`<button type="button" class="small"
        onClick=${() => setLimit(limit + 50)}>show ${Math.min(50,
          all.length - limit)} more of ${all.length} events</button>`}`;
  }

  Object.assign(empo2, { Now, position, xs, withoutEmpty });
})();
