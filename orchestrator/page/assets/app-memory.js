// Memory: the tips, who wrote them, and how the episodes that saw them went.
"use strict";
(() => {
  const { html, useState, useEffect, useMemo, useRef, useAnswer, apiPath, address, go, get, post, usePageTitle,
    plain, Foreign, whole, number, signed, Term, Typed } = empo2;

  function Memory({ run, params, generation }) {
    usePageTitle("Memory, " + plain(run));
    const [changes, setChanges] = useState(0);
    const tips = useAnswer(apiPath(run, "tips", { task: params.task, text: params.text,
      order: params.sort === "association" ? "difference" : "" }), generation + "/" + changes);
    const set = (change) => go(address("memory", run, { ...params, ...change }), true);
    const sorted = useMemo(() => tips.data && sortTips(tips.data.tips, params.sort), [tips.data, params.sort]);
    const removed = sorted?.filter((tip) => tip.stored === 0).length;
    return html`<div class="row"><h1>Memory</h1>${sorted && html`<p class="muted" role="status">
      ${whole(sorted.length)}${tips.data.total > sorted.length ? " of " + whole(tips.data.total) : ""} tips
      ${removed > 0 ? `, ${whole(removed)} of these removed` : ""}</p>`}
      </div>
      <${Recall} run=${run} />
      <form class="filters card" aria-label="Filters" onSubmit=${(e) => e.preventDefault()}>
        <label>text<${Typed} type="search" value=${params.text || ""} onSet=${(v) => set({ text: v })} /></label>
        <label>task<${Typed} type="search" value=${params.task || ""} onSet=${(v) => set({ task: v })} /></label>
        <${empo2.Choice} label="sort by" value=${params.sort || "seen"} options=${Object.keys(orders)}
          names=${orderNames} onChange=${(v) => set({ sort: v })} />
      </form>
      <p class="note explain"><b><${Term} k="association">Association<//>, not effect.</b> The difference compares the
        mean return of episodes that saw a tip with that of episodes of the same task and the same steps that did not.
        The memory chooses which episodes see which tip, so a difference does not say that the tip caused it. A bar
        shows the 95 % interval.</p>
      <${empo2.Problem} problem=${tips.problem} />
      ${sorted ? html`<${Tips} run=${run} tips=${sorted} filtered=${Boolean(params.text || params.task)}
        onChange=${() => setChanges(changes + 1)} />`
        : tips.problem ? "" : html`<${empo2.Loading} />`}`;
  }

  const orders = {
    seen: (tip) => tip.seen, association: (tip) => tip.association?.difference ?? -Infinity,
    score: (tip) => tip.score, newest: (tip) => stepOf(tip),
  };
  const orderNames = { seen: "most seen", association: "difference", score: "score", newest: "newest" };
  const stepOf = (tip) => tip.author ? Number(String(tip.author).split("/")[0]) : -1;

  function sortTips(tips, by) {
    const key = orders[by] || orders.seen;
    return tips.toSorted((a, b) => Number(Boolean(b.pinned)) - Number(Boolean(a.pinned)) || key(b) - key(a));
  }

  // Recall shows which tips a state would recall.
  function Recall({ run }) {
    const [text, setText] = useState("");
    const [found, setFound] = useState(null);
    const [problem, setProblem] = useState(null);
    const ask = async (event) => {
      event.preventDefault();
      setProblem(null);
      try {
        setFound((await get(apiPath(run, "recall", { text }))).tips);
      } catch (caught) {
        setFound(null);
        setProblem(empo2.problemOf(caught));
      }
    };
    return html`<details class="card recall"><summary>What would a state recall?</summary><form onSubmit=${ask}>
        <label>Observation or state<textarea rows="3" value=${text} onInput=${(e) => setText(e.target.value)}>
          </textarea></label>
        <button type="submit" disabled=${!text.trim()}>Recall</button></form>
      <${empo2.Problem} problem=${problem} />
      ${found && (found.length ? html`<ol>${found.map((tip, i) => html`<li key=${i}><${Foreign} text=${tip.text} />
        <span class="muted num"> <${Term} k="similarity">similarity<//> ${number(tip.similarity)} · <${Term}
          k="score">score<//> ${number(tip.score)}</span></li>`)}</ol>`
        : html`<p class="empty">This state would recall no tip.</p>`)}</details>`;
  }

  function Tips({ run, tips, filtered, onChange }) {
    const [limit, setLimit] = useState(100);
    const newest = Math.max(0, ...tips.map((tip) => Math.max(stepOf(tip), tip.last_shown || 0)));
    const widest = Math.max(1e-9, ...tips.map((tip) => spread(tip.association)));
    if (!tips.length) return html`<p class="card empty">
      ${filtered ? "No tip fits these filters."
        : "The memory is empty. Tips are written after training episodes, unless the algorithm has no memory."}</p>`;
    return html`<ul class="tips plain" aria-label="Tips" onKeyDown=${empo2.arrows("li.tip")}>
      ${tips.slice(0, limit).map((tip, i) =>
      html`<${Tip} key=${tip.id ?? tip.scope + "\n" + tip.text} run=${run} tip=${tip} newest=${newest}
        widest=${widest} onChange=${onChange} first=${i === 0} />`)}</ul>
      ${tips.length > limit && html`<button type="button"
        onClick=${() => setLimit(limit + 200)}>
          Show more: ${whole(limit)} of ${whole(tips.length)} are shown</button>`}`;
  }

  const spread = (a) => a ? Math.max(Math.abs(a.difference), Math.abs(a.low ?? 0), Math.abs(a.high ?? 0)) : 0;

  function Tip({ run, tip, newest, widest, onChange }) {
    const step = stepOf(tip);
    return html`<li class="tip card" tabindex="-1"><div class="tip-text"><${Foreign} block text=${tip.text} />
        <p class="muted num"><span>task <bdi>${plain(tip.scope)}</bdi></span>
          ${tip.author ? html`<span>written by <a
            href=${address("episode", run, { kind: "training", place: tip.author })}>${plain(tip.author)}</a></span>
            <span>age ${whole(newest - step)} ${newest - step === 1 ? "step" : "steps"}
              </span>` : html`<span>imported</span>`}
          ${tip.written > 1 && html`<span>written ${whole(tip.written)} times</span>`}
          <span>shown ${whole(tip.shown)} times in ${tip.id != null && tip.seen > 0 && !empo2.isFile
            ? html`<a href=${address("episodes", run, { kind: "training", tip: tip.id })}>
              ${whole(tip.seen)} episodes</a>` : whole(tip.seen) + " episodes"}</span>
          <span><${Term} k="score">score<//> ${number(tip.score)}</span>
            ${tip.stored === 0 && html`<span class="chip">removed</span>`}
          ${tip.pinned && html`<span class="chip">pinned</span>`}</p></div>
      <${Association} a=${tip.association} widest=${widest} />
      ${tip.id != null && !empo2.isFile && tip.stored !== 0 && html`<${Actions} run=${run} tip=${tip}
        onChange=${onChange} />`}</li>`;
  }

  function Association({ a, widest }) {
    if (!a) return html`<p class="association muted">nothing to compare with</p>`;
    const x = (v) => 100 + 92 * v / widest;
    return html`<div class="association"><svg viewBox="0 0 200 14" aria-hidden="true" class="bar">
      <line class="axis" x1="100" x2="100" y1="0" y2="14" />
        ${a.low != null && html`<line class="interval" x1=${x(a.low)} x2=${x(a.high)} y1="7" y2="7" />`}
          <circle cx=${x(a.difference)} cy="7" r="3.5" /></svg>
      <p class="num"><b>${signed(a.difference)}</b>
        ${a.low != null ? html`<span class="muted"> [${number(a.low)}, ${number(a.high)}]</span>` : html`<span
        class="muted"> no interval: too few episodes</span>`}</p>
      <p class="muted num">
        ${number(a.seen.mean)} seen, n ${whole(a.seen.n)} · ${number(a.others.mean)} others, n ${whole(a.others.n)}
        </p></div>`;
  }

  function Actions({ run, tip, onChange }) {
    const [sure, setSure] = useState(false);
    const [problem, setProblem] = useState(null);
    const box = useRef(null);
    const before = useRef(false);
    useEffect(() => { // the focus goes to Keep, and back to Remove
      if (sure !== before.current) box.current.querySelector("button:last-of-type").focus();
      before.current = sure;
    }, [sure]);
    const act = async (what) => {
      setProblem(null);
      try {
        await post(apiPath(run, "tips/" + what), { id: tip.id });
        setSure(false);
        onChange();
      } catch (caught) {
        setProblem(empo2.problemOf(caught));
      }
    };
    const button = (what, label, onClick = () => act(what)) => html`<button type="button" class="small"
      onClick=${onClick}>${label}<span class="sr"> the tip: ${plain(tip.text.slice(0, 80))}</span></button>`;
    return html`<div class="actions" ref=${box}>${tip.pinned ? button("unpin", "Unpin") : button("pin", "Pin")}
      ${sure ? html`${button("remove", "Really remove")} ${button("keep", "Keep", () => setSure(false))}`
        : button("remove", "Remove", () => setSure(true))}
      <${empo2.Problem} problem=${problem} /></div>`;
  }

  Object.assign(empo2, { Memory });
})();
