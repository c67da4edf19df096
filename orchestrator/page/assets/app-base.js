// What all views share: addresses, answers of the server, and the state of a view.
"use strict";
window.empo2 = (() => {
  const html = htm.bind(preact.h);
  const { useState, useEffect, useRef } = preactHooks;

  // Chromium's language is "en-US@posix" under LANG=C, and uPlot would fail with it.
  try {
    new Intl.NumberFormat(navigator.language);
  } catch {
    Object.defineProperty(navigator, "language", { value: "en-US" });
  }

  // An address is #/VIEW/RUN?FILTERS. It works in a file, too.
  function parseAddress(hash) {
    const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
    const [view = "", run = ""] = path.split("/");
    return { view: view || "runs", run: decode(run), params: Object.fromEntries(new URLSearchParams(query)) };
  }

  function decode(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  }

  function address(view, run, params = {}) {
    const set = Object.entries(params).filter(([, value]) => value !== "" && value != null);
    const path = "#/" + (view === "runs" ? "" : view) + (run ? "/" + encodeURIComponent(run) : "");
    return path + (set.length ? "?" + new URLSearchParams(set) : "");
  }

  // go changes the address. With replace, the back button skips the old one.
  function go(to, replace) {
    if (replace) location.replace(to);
    else location.hash = to;
  }

  // apiPath is the path of an answer. Parameters keep the order of the call.
  function apiPath(run, what, params = {}) {
    const set = Object.entries(params).filter(([, value]) => value !== "" && value != null)
      .map(([key, value]) => key + "=" + encodeURIComponent(value));
    return "/api/runs/" + encodeURIComponent(run) + "/" + what + (set.length ? "?" + set.join("&") : "");
  }

  const embedded = document.getElementById("answers");
  const stored = embedded && JSON.parse(embedded.textContent);

  // get returns the answer at a path. A file made by --export holds all its answers.
  async function get(path) {
    if (stored) return fromFile(path);
    return answer(await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(60_000) }));
  }

  // post sends a change. The header tells the server that this page sent it.
  async function post(path, body) {
    return answer(await fetch(path, {
      method: "POST", body: JSON.stringify(body), signal: AbortSignal.timeout(60_000),
      headers: { "Content-Type": "application/json", "X-Empo2": "page" },
    }));
  }

  async function answer(response) {
    let value = null;
    try {
      value = await response.json();
    } catch {
      value = { error: "the answer of " + new URL(response.url).pathname + " is no JSON" };
      if (response.ok) throw value;
    }
    if (!response.ok) throw { error: value.error || "HTTP status " + response.status, hint: value.hint };
    return value;
  }

  function fromFile(path) {
    if (path in stored) return stored[path];
    const [base, query] = path.split("?");
    if (base.endsWith("/episodes") && base in stored) return filterRows(stored[base], new URLSearchParams(query));
    if (base.endsWith("/tips") && base in stored) return filterTips(stored[base], new URLSearchParams(query));
    throw { error: "this is not part of the exported file", hint: "empo2 view RUN shows everything" };
  }

  // filterRows applies the filters of the view Episodes, as the server does.
  function filterRows(all, filters) {
    const is = (name, value) => !filters.get(name) || filters.get(name) === String(value);
    const text = (filters.get("text") || "").toLowerCase();
    const rows = all.rows.filter((row) => is("kind", row.kind) && is("step", row.place.split("/")[0]) &&
      is("task", row.task) && is("mode", row.mode) && is("outcome", row.success ? "success" : "failure") &&
      finished(row, filters.get("finish")) &&
      (!text || JSON.stringify(row).toLowerCase().includes(text)));
    return { ...all, rows, next: "", total: rows.length };
  }

  function finished(row, finish) {
    return !finish || (finish === "cut" ? row.cut > 0 : row.stop === (finish === "full" ? "context_full" : finish));
  }

  function filterTips(all, filters) {
    const task = filters.get("task");
    const text = (filters.get("text") || "").toLowerCase();
    return { ...all, tips: all.tips.filter((tip) => (!task || tip.scope === task) &&
      (!text || tip.text.toLowerCase().includes(text))) };
  }

  // useAnswer loads an answer, and loads it again when generation changes. The old answer
  // stays until the new one is there. There is one request at a time.
  function useAnswer(path, generation) {
    const [state, setState] = useState({ path: null, data: null, problem: null });
    const flight = useRef({});
    useEffect(() => {
      if (flight.current.busy && flight.current.path === path) {
        flight.current.again = true;
        return;
      }
      const mine = flight.current = { path, busy: Boolean(path), again: false };
      if (path) load(mine, flight, setState);
    }, [path, generation]);
    useEffect(() => () => { flight.current = {}; }, []);
    return state.path === path ? state : { path, data: null, problem: null };
  }

  async function load(mine, flight, setState) {
    do {
      mine.again = false;
      let data = null;
      let problem = null;
      try {
        data = await get(mine.path);
      } catch (caught) {
        problem = problemOf(caught);
      }
      if (flight.current !== mine) return;
      setState((old) => ({
        path: mine.path, problem, data: data || (old.path === mine.path ? old.data : null),
      }));
    } while (mine.again);
    mine.busy = false;
  }

  // useThrottled follows a value, but changes at most once in a time of milliseconds.
  function useThrottled(value, time) {
    const [shown, setShown] = useState(value);
    const last = useRef(0);
    useEffect(() => {
      if (value === shown) return;
      const wait = last.current + time - Date.now();
      const follow = () => {
        last.current = Date.now();
        setShown(value);
      };
      if (wait <= 0) return follow();
      const timer = setTimeout(follow, wait);
      return () => clearTimeout(timer);
    }, [value]);
    return shown;
  }

  // problemOf turns what was thrown into {error, hint}.
  function problemOf(caught) {
    if (caught.error) return caught;
    if (caught.name === "TimeoutError") return { error: "the server did not answer within a minute" };
    return { error: "the server cannot be reached",
      hint: "the page connects again as soon as empo2 view or empo2 run --view runs" };
  }

  // usePageTitle names the tab of the browser.
  function usePageTitle(title) {
    useEffect(() => { document.title = title + " · empo2"; }, [title]);
  }

  // arrows moves the focus between the elements that fit the selector.
  function arrows(selector) {
    return (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || event.target.matches("input, select, textarea")) return;
      const all = [...event.currentTarget.querySelectorAll(selector)];
      const next = all[all.indexOf(document.activeElement) + step];
      if (!next) return;
      event.preventDefault();
      next.focus();
    };
  }

  return { html, parseAddress, address, go, apiPath, get, post, problemOf, useAnswer, useThrottled, usePageTitle,
    arrows,
    isFile: Boolean(stored), ...preactHooks };
})();
