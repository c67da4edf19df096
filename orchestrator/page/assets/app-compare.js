// Compare: several runs, as curves, paired differences, and what differs in their settings.
"use strict";
(() => {
  const { html, useMemo, useAnswer, address, go, usePageTitle, plain, Foreign, whole, percent, signed, Term, Chart,
    Downloads,
    look, position, xs } = empo2;

  function Compare({ params, generation, runs }) {
    usePageTitle("Compare");
    const chosen = (params.runs || "").split(",").filter(Boolean).map(decodeURIComponent);
    const path = chosen.length ? "/api/compare?runs=" + chosen.map(encodeURIComponent).join(",") : null;
    const answer = useAnswer(path, generation);
    const set = (change) => go(address("compare", "", { ...params, ...change }), true);
    const choose = (name, on) => {
      const next = on ? [...chosen, name] : chosen.filter((n) => n !== name);
      set({ runs: next.map(encodeURIComponent).join(",") });
    };
    return html`<h1>Compare</h1>
      <fieldset class="card choose"><legend>Runs</legend>${runs.map((run) => html`<label key=${run.name}>
        <input type="checkbox"
        checked=${chosen.includes(run.name)} onChange=${(e) => choose(run.name, e.target.checked)} /> <bdi>
          ${plain(run.name)}</bdi></label>`)}
        ${runs.length === 0 && html`<span class="muted">There is no run.</span>`}</fieldset>
      <${empo2.Problem} problem=${answer.problem} />
      ${!path ? html`<p class="card empty">Choose two or more runs.</p>` : answer.data ? html`<${Answer}
        data=${answer.data} params=${params} onSet=${set} />`
        : answer.problem ? "" : html`<${empo2.Loading} />`}`;
  }

  // armOf is the setting that a run belongs to: runs of one setting differ by their seed.
  const armOf = (run) => run.arm || run.name.replace(/[-_. ]?(house|seed|s)?[-_. ]?\d+$/, "") || run.name;

  function Answer({ data, params, onSet }) {
    const key = xs[params.x] ? params.x : "episodes";
    const splits = [...new Set(data.runs.flatMap((run) => run.evaluations.map((e) => e.split)))];
    const split = splits.includes(params.split) ? params.split : splits.includes("eval") ? "eval" : splits[0] || "eval";
    const arms = new Set(data.runs.map(armOf));
    const grouped = params.band === "seeds" && arms.size < data.runs.length;
    const chart = useMemo(() => grouped ? armChart(data.runs, key, split) : runChart(data.runs, key, split), [data,
      key, split, grouped]);
    return html`<section class="card" aria-labelledby="compare-title"><div class="row">
      <h2 id="compare-title">Success without tips</h2><span class="tools">
        ${splits.length > 1 && html`<${empo2.Choice} label="split" value=${split} options=${splits}
          onChange=${(v) => onSet({ split: v })} />`}
        <${empo2.Choice} label="against" value=${key} options=${Object.keys(xs)} names=${xs}
          onChange=${(v) => onSet({ x: v })} />
        ${arms.size < data.runs.length && html`<${empo2.Choice} label="band" value=${grouped ? "seeds" : "episodes"}
          options=${["episodes", "seeds"]}
          names=${{ episodes: "of each run", seeds: "over seeds" }} onChange=${(v) => onSet({ band: v })} />`}
        <${Downloads} chart=${chart} name="compare" /></span></div>
      ${chart.data[0].length ? html`<${Chart} chart=${chart} />` : html`<p
        class="empty">None of these runs has an evaluation on this split.</p>`}
      <p class="note muted">
        ${grouped ? html`Lines: means of the runs of a setting. Bands: <${Term} k="seeds" />.` : html`Bands: <${Term}
        k="interval" /> of each evaluation.`}</p></section>
      <${Last} runs=${data.runs} split=${split} />
      <${Paired} all=${data.paired} />
      <${Config} all=${data.config} runs=${data.runs} />
      <${Prompts} all=${data.prompts} />`;
  }

  const own = (run, split) => run.evaluations.filter((e) => e.split === split && !e.with_tips).sort((a,
    b) => a.step - b.step);

  function chartOf(curves, key, split) {
    const all = [...new Set(curves.flatMap((curve) => curve.points.map((p) => p[0])))].sort((a, b) => a - b);
    const index = new Map(all.map((x, i) => [x, i]));
    const chart = { title: `success without tips (${split})`, xLabel: xs[key], unit: "%", height: 320,
      sync: "compare-" + key,
      data: [all], series: [], bands: [] };
    curves.forEach((curve, i) => {
      const columns = [1, 2, 3].map((k) => {
        const column = Array(all.length).fill(null);
        for (const p of curve.points) column[index.get(p[0])] = p[k];
        return column;
      });
      const n = chart.series.length;
      chart.data.push(...columns);
      chart.series.push({ name: curve.name + ", low", bound: true }, { name: curve.name + ", high", bound: true },
        { name: curve.name, ...look(i), points: curve.points.length < 60, low: n, high: n + 1 });
      chart.bands.push([n + 1, n, look(i).colour]);
    });
    return empo2.withTop(chart);
  }

  function runChart(runs, key, split) {
    return chartOf(runs.map((run) => {
      const at = position(run.x, key);
      return { name: run.name, points: own(run, split).map((e) => [at(e.step), e.low, e.high, e.rate]) };
    }), key, split);
  }

  // armChart averages the runs of each setting at the x values that all of them have reached.
  function armChart(runs, key, split) {
    const curves = Object.entries(Object.groupBy(runs, armOf)).map(([name, members]) => {
      const lines = members.map((run) => own(run, split).map((e) => [position(run.x, key)(e.step),
        e.rate])).filter((line) => line.length);
      const end = Math.min(...lines.map((line) => line.at(-1)[0]));
      const start = Math.max(...lines.map((line) => line[0][0]));
      const at = [...new Set(lines.flatMap((line) => line.map((p) => p[0])))].filter((x) => x >= start
        && x <= end).sort((a, b) => a - b);
      return { name: `${name} (${members.length} ${members.length === 1 ? "run" : "runs"})`, points: at.map((x) => {
        const values = lines.map((line) => between(line, x));
        return [x, ...bootstrap(values), mean(values)];
      }) };
    });
    return chartOf(curves, key, split);
  }

  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

  // between interpolates a line of [x, y] points.
  function between(line, x) {
    const i = line.findIndex((p) => p[0] >= x);
    if (i <= 0 || line[i][0] === x) return line[Math.max(0, i)][1];
    const [[x0, y0], [x1, y1]] = [line[i - 1], line[i]];
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0);
  }

  // bootstrap is the 95 % percentile interval of the mean of few values: over all
  // resamples of up to five values, else over 2,000 that are always the same.
  function bootstrap(values) {
    const n = values.length;
    if (n < 2) return [null, null];
    const means = [];
    let seed = 1;
    const draws = n <= 5 ? n ** n : 2000;
    for (let draw = 0; draw < draws; draw++) {
      let sum = 0;
      for (let k = 0, rest = draw; k < n; k++, rest = Math.floor(rest / n)) {
        if (n > 5) seed = (seed * 48_271) % 2_147_483_647; // Park and Miller's generator
        sum += values[n <= 5 ? rest % n : seed % n];
      }
      means.push(sum / n);
    }
    means.sort((a, b) => a - b);
    return [means[Math.floor(0.025 * (draws - 1))], means[Math.ceil(0.975 * (draws - 1))]];
  }

  function Last({ runs, split }) {
    const rows = runs.map((run) => ({ run, last: own(run, split).at(-1) }));
    return html`<section class="card table-card" aria-labelledby="last-title">
      <h2 id="last-title">Newest evaluation without tips</h2><table>
      <thead><tr><th scope="col">run</th><th scope="col" class="n">step</th><th scope="col" class="n">success</th>
        <th scope="col" class="n"><${Term} k="interval" /></th><th scope="col" class="n wide">episodes</th></tr>
        </thead>
      <tbody>${rows.map(({ run, last }, i) => html`<tr key=${run.name}><th scope="row">
        <${empo2.Swatch} series=${look(i)} /> <a href=${address("now", run.name)}><bdi>${plain(run.name)}</bdi></a>
        </th>
        <td class="n">${whole(last?.step)}</td><td class="n"><b>${percent(last?.rate)}</b></td><td class="n">
          ${last ? `${(100 * last.low).toFixed(1)} to ${(100 * last.high).toFixed(1)}` : "–"}</td>
        <td class="n wide">${whole(last?.n)}</td></tr>`)}</tbody></table></section>`;
  }

  function Paired({ all }) {
    if (!all?.length) return html`<section class="card" aria-labelledby="paired-title"><h2 id="paired-title">
      <${Term} k="paired">Paired differences<//></h2>
      <p class="empty">The runs share no task that was evaluated in both.</p></section>`;
    const widest = Math.max(1e-9, ...all.map((p) => Math.max(Math.abs(p.difference), Math.abs(p.low ?? 0),
      Math.abs(p.high ?? 0))));
    const x = (v) => 100 + 92 * v / widest;
    const head = ["task", "run", "step", "against", "its step", "difference of success", "low", "high", "pairs"];
    const lines = () => [head,
      ...all.map((p) => [p.task || "all tasks", p.b, p.b_step, p.a, p.a_step, p.difference, p.low, p.high, p.n])];
    return html`<section class="card table-card" aria-labelledby="paired-title"><div class="row">
      <h2 id="paired-title"><${Term} k="paired">Paired differences<//> by task</h2>
      <${empo2.SaveLines} lines=${lines} name="paired-differences" /></div>
      <table><thead><tr><th scope="col">task</th><th scope="col">runs</th>
        <th scope="col" class="n">difference, points</th><th scope="col" class="wide"><${Term} k="interval" /></th>
        </tr></thead>
      <tbody>${all.map((p, i) => html`<tr key=${i}><th scope="row"><bdi>${plain(p.task || "all tasks")}</bdi></th><td>
        <bdi>${plain(p.b)}</bdi> <span class="muted">step ${whole(p.b_step)}, against</span> <bdi>${plain(p.a)}</bdi>
        <span class="muted"> step ${whole(p.a_step)}</span>
        ${p.a_step !== p.b_step && html` <span class="warn">different steps</span>`}</td>
        <td class="n"><b>${signed(p.difference, points)}</b><span class="narrow muted">${intervalOf(p)}</span></td>
        <td class="wide"><svg viewBox="0 0 200 14" aria-hidden="true" class="bar">
          <line class="axis" x1="100" x2="100" y1="0" y2="14" />
          ${p.low != null && html`<line class="interval" x1=${x(p.low)} x2=${x(p.high)} y1="7" y2="7" />`}
            <circle cx=${x(p.difference)} cy="7" r="3.5" /></svg>
          <span class="num muted">${intervalOf(p)}</span></td></tr>`)}</tbody></table></section>`;
  }

  const intervalOf = (p) => (p.low == null ? "too few pairs" : `${points(p.low)} to ${points(p.high)}`) +
    (p.n != null ? ` · n ${whole(p.n)}` : "");

  // points shows a difference of shares in points of a percentage.
  const points = (share) => percent(share).replace(" %", "");

  function Config({ all, runs }) {
    if (!all?.length) return html`<section class="card" aria-labelledby="config-title">
      <h2 id="config-title">Configuration</h2><p class="empty">No key differs.</p></section>`;
    return html`<section class="card" aria-labelledby="config-title">
      <h2 id="config-title">Configuration: keys that differ</h2>
      <ul class="plain differs">${all.map((one) => html`<li key=${one.key}><code class="key-name">${plain(one.key)}
        </code>
        <dl>${runs.map((run) => html`<div key=${run.name}><dt class="muted"><bdi>${plain(run.name)}</bdi></dt><dd>
          <code><${Foreign} text=${textOf(one.values[run.name])} /></code></dd></div>`)}</dl></li>`)}</ul></section>`;
  }

  const textOf = (v) => v == null ? "not set" : typeof v === "string" ? v : JSON.stringify(v);

  function Prompts({ all }) {
    if (!all?.length) return html`<section class="card" aria-labelledby="prompts-title">
      <h2 id="prompts-title">Prompts</h2><p class="empty">No prompt differs.</p></section>`;
    return html`<section class="card" aria-labelledby="prompts-title"><h2 id="prompts-title">Prompts that differ</h2>
      ${all.map((one) => html`<h3 key=${one.name}>${plain(one.name)}</h3><div class="diff">
        ${one.diff.split("\n").map((line, i) =>
        html`<div key=${i} class=${line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : ""}>
          <${Foreign} text=${line || " "} /></div>`)}</div>`)}</section>`;
  }

  Object.assign(empo2, { Compare });
})();
