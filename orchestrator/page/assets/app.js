// The page: its header, the list of runs, the choice of the view, and the events of the server.
"use strict";
(() => {
  const { html, useState, useEffect, useRef, useAnswer, parseAddress, address, go, plain, whole, when,
    usePageTitle } = empo2;

  empo2.Loading = () => html`<p class="card empty" role="status">Loading …</p>`;

  empo2.Problem = ({ problem }) => problem ? html`<div class="problem card" role="alert"><b>${plain(problem.error)}</b>
    ${problem.hint && html`<p>Hint: ${plain(problem.hint)}</p>`}</div>` : "";

  // Choice is a labelled list of values.
  empo2.Choice = ({ label, value, options, names = {}, onChange }) => html`<label class="choice">${label}
    <select value=${value}
    onChange=${(e) => onChange(e.target.value)}>${options.map((o) => html`<option key=${o} value=${o}>
      ${plain(names[o] || o)}</option>`)}</select></label>`;

  // useAddress returns the parsed address and follows it.
  function useAddress() {
    const [hash, setHash] = useState(location.hash);
    useEffect(() => {
      const change = () => setHash(location.hash);
      addEventListener("hashchange", change);
      return () => removeEventListener("hashchange", change);
    }, []);
    return parseAddress(hash);
  }

  // useEvents follows a run: generation grows with each change, stored changes with each
  // episode, and commits with each step. state is "live", "ended", "lost" while the server is
  // away, or "file". A tab that nobody sees asks for nothing: it catches up when it is shown.
  function useEvents(run) {
    const [generation, setGeneration] = useState(0);
    const [stored, setStored] = useState("");
    const [commits, setCommits] = useState("");
    const [state, setState] = useState(empo2.isFile ? "file" : "connecting");
    useEffect(() => {
      if (empo2.isFile || !run) return;
      setState("connecting");
      let source = null;
      let timer = null;
      let losses = 0;
      let unseen = null;
      const take = ({ live, steps, version, episodes, untrained }) => {
        const step = [live, steps, version, losses].join(); // after a loss all is asked for again
        setState(live ? "live" : "ended");
        setCommits(step);
        setStored([step, episodes, untrained].join());
        setGeneration((n) => n + 1);
      };
      const show = () => {
        if (document.hidden || !unseen) return;
        take(unseen);
        unseen = null;
      };
      const open = () => {
        source = new EventSource("/api/events?run=" + encodeURIComponent(run));
        source.addEventListener("change", (event) => { // the first one comes at once
          unseen = JSON.parse(event.data);
          show();
        });
        source.addEventListener("gone", () => { setState("ended"); setGeneration((n) => n + 1); });
        source.onerror = () => {
          source.close();
          losses++;
          setState("lost");
          timer = setTimeout(open, 1000);
        };
      };
      open();
      document.addEventListener("visibilitychange", show);
      return () => {
        source.close();
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", show);
      };
    }, [run]);
    return { generation, stored, commits, state };
  }

  // usePulse changes every ten seconds, for the list of runs, which has no events.
  function usePulse(on) {
    const [beat, setBeat] = useState(0);
    useEffect(() => {
      if (!on || empo2.isFile) return;
      const timer = setInterval(() => document.hidden || setBeat((n) => n + 1), 10_000);
      return () => clearInterval(timer);
    }, [on]);
    return on ? "/" + beat : "";
  }

  // newsOf tells a view whether to ask again: Now changes also between episodes.
  const newsOf = (view, events) => ({ now: events.generation, episodes: events.stored })[view] ?? events.commits;

  // addressOf is a view's address from the header. Compare begins with the run that is shown.
  const addressOf = (view, run) =>
    view === "compare" ? address(view, "", { runs: encodeURIComponent(run), run }) : address(view, run);

  const views = [["now", "Now"], ["episodes", "Episodes"], ["memory", "Memory"], ["compare", "Compare"]];
  const components = { now: empo2.Now, episodes: empo2.Episodes, episode: empo2.Episode, memory: empo2.Memory };

  function App() {
    const at = useAddress();
    const [terms, setTerms] = useState(false);
    const run = at.run || (at.view === "compare" ? at.params.run : "") || "";
    const unknown = useRef(false);
    const events = useEvents(unknown.current ? "" : run);
    const all = useAnswer("/api/runs", events.commits + usePulse(at.view === "runs" || unknown.current));
    const runs = all.data?.runs || [];
    unknown.current = Boolean(run && all.data && !runs.some((r) => r.name === run));
    const main = useRef(null);
    useKeys({ at, run: run || runs[0]?.name, terms, setTerms });
    useFocus(main, at.view, at.run);
    useEffect(() => { // with one run there is nothing to choose
      const only = runs.length === 1 && !runs[0].problem;
      if (at.view === "runs" && only && !location.hash) go(address("now", runs[0].name), true);
    }, [all.data]);
    const { state } = events;
    const View = components[at.view];
    return html`<${Header} at=${at} run=${run} runs=${runs} state=${state} terms=${terms}
      onTerms=${() => setTerms(!terms)}
        onSkip=${(e) => { e.preventDefault(); main.current.focus(); }} />
      <main ref=${main} id="main" tabindex="-1">
        ${terms && html`<${empo2.Glossary} onClose=${() => setTerms(false)} />`}
        <${State} state=${state} />
        ${unknown.current ? html`<${Unknown} run=${run} />`
          : View && at.run ? html`<${View} key=${at.view + "/" + at.run} run=${at.run} params=${at.params}
            state=${state} generation=${newsOf(at.view, events)} />`
          : at.view === "compare" ? html`<${empo2.Compare} params=${at.params} generation=${events.commits}
            runs=${runs} />`
            : html`<${Runs} all=${all} />`}
      </main>`;
  }

  const Unknown = ({ run }) => html`<h1>There is no run ${plain(run)}</h1>
    <p class="card empty">The page shows it as soon as it begins. <a href="#/">All runs</a></p>`;

  function Header({ at, run, runs, state, terms, onTerms, onSkip }) {
    const choose = (e) => go(e.target.value ? address(at.view === "runs" || at.view === "compare"
      || at.view === "episode" ? "now" : at.view, e.target.value) : "#/");
    const names = runs.some((r) => r.name === run) || !run ? runs.map((r) => r.name) : [run,
      ...runs.map((r) => r.name)];
    const target = run || runs[0]?.name;
    const current = at.view === "episode" ? "episodes" : at.view;
    return html`<header class="top">
      <a class="skip" href=${location.hash || "#/"} onClick=${onSkip}>Skip to the content</a>
      <a class="brand" href="#/" aria-label="empo2: all runs">empo2</a>
      <label class="run-choice"><span class="sr">run</span><select value=${run} onChange=${choose}>
        <option value="">all runs</option>
        ${names.map((name) => html`<option key=${name} value=${name}>${plain(name)}</option>`)}</select></label>
      <nav aria-label="Views">
        ${target && views.map(([view, name]) => html`<a key=${view} href=${addressOf(view, target)}
        aria-current=${current === view ? "page" : null}>${name}</a>`)}</nav>
      ${(run || state === "file") && html`<span class=${"live live-" + state}>
        ${{ live: "live", ended: "ended", lost: "no connection", file: "file", connecting: "connecting" }[state]}
        </span>`}
      <button type="button" class="small" aria-expanded=${terms} onClick=${onTerms}>Terms</button></header>`;
  }

  function State({ state }) {
    if (state === "lost") {
      return html`<p class="notice notice-bad"
        role="status">The connection to empo2 is lost. The page shows what it knows, and connects again by itself.
        Start <code>empo2 view</code> if it was stopped.</p>`;
    }
    if (state === "ended") return html`<p class="notice"
      role="status">The run's process has ended; showing what is stored.</p>`;
    if (state === "file") return html`<p
      class="notice">An exported file: it does not change, and it holds a part of the episodes.</p>`;
    return "";
  }

  function Runs({ all }) {
    usePageTitle("Runs");
    if (!all.data) return all.problem ? html`<${empo2.Problem} problem=${all.problem} />` : html`<${empo2.Loading} />`;
    const runs = all.data.runs;
    if (!runs.length) return html`<h1>Runs</h1>
      <p class="card empty">There is no run here yet. <code>empo2 run</code> begins one.</p>`;
    return html`<div class="row"><h1>Runs</h1>
      <a class="button small" href=${address("compare", "", { runs: runs.filter((r) => !r.problem).slice(0, 6)
      .map((r) => encodeURIComponent(r.name)).join(",") })}>Compare</a></div>
      <div class="card table-card"><table onKeyDown=${empo2.arrows("a.place")}><thead><tr><th scope="col">run</th>
        <th scope="col">state</th><th scope="col" class="n">steps</th><th scope="col" class="n wide">version</th>
        <th scope="col" class="n"><${empo2.Term} k="success_without">success<//></th>
          <th scope="col" class="n wide">episodes</th><th scope="col" class="n wide">evaluated</th>
          <th scope="col" class="n wide">failed</th><th scope="col" class="wide">changed</th></tr></thead>
      <tbody>${runs.map((r) => html`<tr key=${r.name}><th scope="row"><a class="place" href=${address("now", r.name)}>
        <bdi>${plain(r.name)}</bdi></a>
          ${r.problem && html`<p class="bad">${plain(r.problem)}</p>`}</th>
        <td><span class=${"live live-" + (r.problem ? "lost" : r.live ? "live" : "ended")}>
          ${r.problem ? "unreadable" : r.live ? "live" : r.state || "ended"}</span></td>
        <td class="n">${whole(r.steps)}</td>
        <td class="n wide">${whole(r.version)}</td><td class="n">${empo2.percent(r.success)}</td>
        <td class="n wide">${whole(r.episodes)}</td><td class="n wide">
          ${whole(r.evaluated)}</td><td class="n wide">${whole(r.failed)}</td><td class="wide">${when(r.changed)}</td>
          </tr>`)}</tbody></table></div>`;
  }

  // useKeys binds the keys of the whole page.
  function useKeys(page) {
    const latest = useRef(page);
    latest.current = page;
    useEffect(() => {
      const press = (event) => onKey(event, latest.current);
      addEventListener("keydown", press);
      return () => removeEventListener("keydown", press);
    }, []);
  }

  function onKey(event, { at, run, terms, setTerms }) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      const back = document.querySelector("a[data-back]");
      if (terms) setTerms(false);
      else if (event.target.matches("input, textarea")) event.target.blur();
      else if (back) go(back.getAttribute("href"));
      else if (at.view !== "runs") go("#/");
      return;
    }
    if (event.target.matches("input, textarea, select")) return;
    if (empo2.shortcuts.on) onShortcut(event.key, { run, terms, setTerms });
    if (event.key === "ArrowDown" && document.activeElement?.matches("body, main")) {
      const first = document.querySelector("main a.place, main li.tip");
      if (first) event.preventDefault();
      first?.focus();
    }
  }

  function onShortcut(key, { run, terms, setTerms }) {
    if (key === "?") setTerms(!terms);
    const view = views[Number(key) - 1]?.[0];
    if (view && run) go(addressOf(view, run));
  }

  // useFocus moves the focus to a view that was opened, but not when the page is loaded.
  function useFocus(main, view, run) {
    const before = useRef(null);
    useEffect(() => {
      if (before.current !== null && before.current !== view + run) {
        scrollTo(0, 0);
        main.current.focus({ preventScroll: true });
      }
      before.current = view + run;
    }, [view, run]);
  }

  preact.render(html`<${App} />`, document.getElementById("page"));
})();
