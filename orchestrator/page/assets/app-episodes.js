// Episodes: the list, with filters that are part of the address.
"use strict";
(() => {
  const { html, useState, useEffect, useAnswer, apiPath, address, go, get, usePageTitle, plain, whole, number, signed,
    Term } = empo2;

  const names = { kind: "kind", step: "step", task: "task", mode: "mode", outcome: "outcome", finish: "finish",
    text: "text", tip: "tip" };
  const kinds = ["training", "eval", "test", "command", "failed", "cancelled"];

  function Episodes({ run, params, generation }) {
    usePageTitle("Episodes, " + plain(run));
    const filters = Object.fromEntries(Object.keys(names).map((name) => [name, params[name] || (name === "kind"
      ? "training" : "")]));
    const first = useAnswer(apiPath(run, "episodes", { ...filters, limit: 100 }), empo2.useThrottled(generation, 1000));
    const set = (change) => go(address("episodes", run, { ...params, ...change }), true);
    return html`<div class="row"><h1>Episodes</h1>${first.data && html`<p class="muted" role="status">
      ${whole(first.data.total)} found</p>`}</div>
      <${Filters} filters=${filters} answer=${first.data} onSet=${set} run=${run} />
      <${empo2.Problem} problem=${first.problem} />
      ${first.data ? html`<${Rows} key=${first.path} run=${run} first=${first.data}
        filters=${filters} />` : first.problem ? "" : html`<${empo2.Loading} />`}`;
  }

  function Filters({ filters, answer, onSet, run }) {
    const select = (name, options, label = name) => html`<label>${label}
      <select value=${filters[name]} onChange=${(e) => onSet({ [name]: e.target.value })}>
      <option value="">any</option>${options.map((o) => html`<option key=${o} value=${o}>
        ${name === "mode" ? modeName(o) : plain(o)}</option>`)}</select></label>`;
    const field = (name, extra) => html`<label>${name}
      <${Typed} value=${filters[name]} onSet=${(v) => onSet({ [name]: v })} ...${extra} /></label>`;
    return html`<form class="filters card" onSubmit=${(e) => e.preventDefault()} aria-label="Filters">
      <label>kind<select value=${filters.kind} onChange=${(e) => onSet({ kind: e.target.value })}>
        ${kinds.map((k) => html`<option key=${k} value=${k}>${k}</option>`)}</select></label>
      ${field("step", { inputmode: "numeric", size: 5 })}
      ${select("task", withCurrent(answer?.tasks, filters.task))}
      ${select("mode", withCurrent(answer?.modes, filters.mode))}
      ${select("outcome", ["success", "failure"])}
      ${select("finish", withCurrent(["cut", "full", "terminated", "max_steps", "truncated"], filters.finish))}
      ${field("text", { type: "search", size: 14 })}
      ${filters.tip && html`<button type="button" class="small"
        onClick=${() => onSet({ tip: "" })}>only those that saw a tip: remove</button>`}
      <a class="button small" href=${address("episodes", run)}>Clear</a></form>`;
  }

  const withCurrent = (all, current) => [...new Set([...(all || []), ...(current ? [current] : [])])];

  // Typed is a text field that applies its value when the reader pauses or presses Enter.
  function Typed({ value, onSet, ...rest }) {
    const [text, setText] = useState(value);
    useEffect(() => setText(value), [value]);
    useEffect(() => {
      if (text === value) return;
      const timer = setTimeout(() => onSet(text), 300);
      return () => clearTimeout(timer);
    }, [text]);
    return html`<input type="text" ...${rest} value=${text} onInput=${(e) => setText(e.target.value)}
      onKeyDown=${(e) => e.key === "Enter" && onSet(text)} />`;
  }

  function Rows({ run, first, filters }) {
    const [later, setLater] = useState({ rows: [], next: null });
    const [problem, setProblem] = useState(null);
    const rows = [...first.rows, ...later.rows];
    const next = later.next ?? first.next;
    const more = async () => {
      try {
        const answer = await get(apiPath(run, "episodes", { ...filters, cursor: next, limit: 100 }));
        setLater({ rows: [...later.rows, ...answer.rows], next: answer.next });
        setProblem(null);
      } catch (caught) {
        setProblem(empo2.problemOf(caught));
      }
    };
    if (!rows.length) return html`<p class="card empty">No episode fits these filters. <a
      href=${address("episodes", run)}>Show all training episodes</a></p>`;
    return html`<div class="card table-card"><table class="episodes" onKeyDown=${empo2.arrows("a.place")}>
      <caption class="sr">Episodes by group</caption>
      <thead><tr><th scope="col">episode</th><th scope="col"><${Term} k="mode">mode<//></th>
        <th scope="col" class="n wide"><${Term} k="version">version<//></th>
        <th scope="col" class="n"><${Term} k="return">return<//></th><th scope="col" class="n">
          <${Term} k="advantage">advantage<//></th>
        <th scope="col" class="n wide">turns</th><th scope="col" class="n wide"><${Term} k="cut">cut<//></th>
        <th scope="col" class="n wide"><${Term} k="empty">empty<//></th><th scope="col" class="n wide">
          <${Term} k="tip">tips<//></th>
        <th scope="col">outcome</th><th scope="col" class="wide">stop</th></tr></thead>
      ${groupsOf(rows).map((group) => html`<${Group} key=${group.key} group=${group} run=${run}
        filters=${filters} />`)}</table></div>
      <${empo2.Problem} problem=${problem} />
      ${next && html`<p><button type="button"
        onClick=${more}>Show more: ${whole(rows.length)} of ${whole(first.total)} are shown</button></p>`}`;
  }

  // groupsOf divides the rows by group, in their order.
  function groupsOf(rows) {
    const out = [];
    for (const row of rows) {
      const key = row.kind + " " + row.place.split("/").slice(0, 2).join("/");
      if (out.at(-1)?.key !== key) out.push({ key, rows: [], place: row.place.split("/"), task: row.task });
      out.at(-1).rows.push(row);
    }
    return out;
  }

  function Group({ group, run, filters }) {
    const returns = group.rows.map((row) => row.return).filter((v) => v != null);
    const mean = returns.length ? returns.reduce((a, b) => a + b, 0) / returns.length : null;
    const wins = group.rows.filter((row) => row.success).length;
    return html`<tbody><tr class="group"><th scope="rowgroup" colspan="11">
      <span class="muted">step</span> ${group.place[0]} <span class="muted">${" "}group</span> ${group.place[1]}
      <span class="task"><bdi>${plain(group.task)}</bdi></span>
      <span class="muted num">mean return ${number(mean)} · ${wins} of ${group.rows.length} succeeded</span></th></tr>
      ${group.rows.map((row) => html`<${Row} key=${row.place} row=${row} run=${run} filters=${filters} />`)}</tbody>`;
  }

  function Row({ row, run, filters }) {
    const open = address("episode", run, { ...filters, kind: row.kind, place: row.place, list: filters.kind });
    const outcome = row.error ? "error" : row.success ? "success" : "failure";
    const warn = (n) => n > 0 ? "n wide warn" : "n wide zero";
    return html`<tr class=${outcome}><td><a class="place" href=${open}>${row.place}</a></td><td>${modeName(row.mode)}
        <span class="narrow muted num">${row.turns === 1 ? "1 turn" : whole(row.turns) + " turns"}
          ${row.cut > 0 && html`<span class="warn"> · ${whole(row.cut)} cut</span>`}</span></td>
      <td class="n wide">${whole(row.version)}</td>
      <td class="n">${number(row.return)}</td><td class="n"><${Signed} value=${row.advantage} /></td>
        <td class="n wide">${whole(row.turns)}</td>
      <td class=${warn(row.cut)}>${whole(row.cut)}</td><td class=${warn(row.empty)}>${whole(row.empty)}</td>
        <td class="n wide">${whole(row.tips_shown)}</td>
      <td><span class=${"outcome outcome-" + outcome}>${outcome}</span></td><td class="wide">
        <bdi title=${plain(row.error)}>${plain(row.error || row.stop)}</bdi></td></tr>`;
  }

  const modeName = (mode) => plain(mode).replaceAll("_", " ");

  const Signed = ({ value }) => html`<span class=${value > 0 ? "plus" : value < 0 ? "minus" : ""}>${signed(value)}
    </span>`;

  Object.assign(empo2, { Episodes, Signed, modeName, Typed, filterNames: Object.keys(names) });
})();
