// Episode: the conversation with typed spans, and what training made of its tokens.
"use strict";
(() => {
  const { html, useState, useEffect, useAnswer, apiPath, address, go, usePageTitle, plain, Foreign, whole, number,
    signed,
    when, duration, Term, Signed } = empo2;

  function Episode({ run, params, generation }) {
    const { kind = "training", place = "" } = params;
    usePageTitle(`Episode ${plain(place)}, ${plain(run)}`);
    const path = (k, p) => apiPath(run, "episode", { kind: k, place: p });
    const one = useAnswer(path(kind, place), generation);
    const [otherKind, otherPlace] = (params.beside || "").split(":");
    const other = useAnswer(otherPlace ? path(otherKind, otherPlace) : null, generation);
    const set = (change) => go(address("episode", run, { ...params, ...change }), true);
    const list = listAddress(run, params);
    return html`<p class="crumbs"><a href=${list} data-back>← Episodes</a></p>
      <${empo2.Problem} problem=${one.problem} />
      ${one.data ? html`<${Head} data=${one.data} />
        <${Tools} data=${one.data} params=${params} onSet=${set} />
        <${empo2.Problem} problem=${other.problem} />
        <div class=${besideOf(one.data, params) ? "beside" : ""}>
          <${Conversation} run=${run} data=${one.data} colour=${params.colour || "logprob"} title="as sampled" />
          <${Beside} run=${run} data=${one.data} other=${other.data} params=${params} /></div>`
        : html`<h1 class="sr">Episode ${plain(place)}</h1>${one.problem ? "" : html`<${empo2.Loading} />`}`}`;
  }

  // listAddress is the list with the filters that led here.
  function listAddress(run, params) {
    const filters = Object.fromEntries(empo2.filterNames.map((name) => [name, params[name]]));
    return address("episodes", run, { ...filters, kind: params.list || params.kind });
  }

  const besideOf = (data, params) => (params.beside ?? (data.tip_free ? "tip_free" : ""));

  function Head({ data }) {
    const e = data.episode;
    const outcome = e.error ? "error" : e.success ? "success" : "failure";
    const facts = [["return", number(e.return), "return"], ["score", number(e.score), "score"], ["advantage",
      html`<${Signed} value=${e.advantage} />`, "advantage"],
      ["bonus", number(e.bonus), "bonus"], ["version", whole(e.version), "version"],
      ["turns", whole(e.turns), "turn"], ["cut", whole(e.cut), "cut"],
      ["tips shown", whole(e.tips_shown), "tip"], ["tokens trained", whole(e.tokens_trained)], ["stop",
        plain(e.stop)], ["took", duration(e.took_s)], ["ended", when(e.at)]];
    return html`<section class="card" aria-labelledby="episode-title">
      <div class="row"><h1 id="episode-title">Episode ${plain(e.place)} <span class="muted">${plain(e.kind)}</span></h1>
        <span class=${"outcome outcome-" + outcome}>${outcome}</span></div>
      <p><span class="muted">task </span>
        <${Foreign} text=${e.task} /> <span class="muted">· <${Term} k="mode">mode<//> </span>
        ${empo2.modeName(e.mode)}</p>
      <dl class="facts">${facts.map(([name, text, k]) => html`<div key=${name}><dt><${Term} k=${k}>${name}<//></dt>
        <dd>${text}</dd></div>`)}</dl>
      ${e.error && html`<p class="problem"><b>error: </b><${Foreign} text=${e.error} /></p>`}
      ${e.tip_written && html`<p class="written">
        <span class="chip">tip written</span> <${Foreign} text=${e.tip_written} /></p>`}</section>`;
  }

  const scales = {
    logprob: { name: "log-prob", of: (t) => t.logprob, levels: [-0.1, -0.5, -1.5, -4], unit: "nats" },
    mismatch: { name: "mismatch", of: (t) => t.trainer_logprob == null || t.logprob == null ? null
      : t.trainer_logprob - t.logprob,
      steps: [0.001, 0.01, 0.1, 0.5], unit: "nats" },
    ratio: { name: "ratio", of: (t) => t.ratio, centre: Math.log, steps: [0.02, 0.1, 0.3, 1], unit: "" },
    advantage: { name: "advantage", of: (t, e) => t.masked ? null : e.advantage, steps: [0.01, 0.25, 0.75, 1.5],
      unit: "" },
  };

  // shade is the class of a token's colour. Blue is up, orange is down.
  function shade(scale, token, episode) {
    const v = scale?.of(token, episode);
    if (v == null) return "";
    if (scale.levels) {
      const n = scale.levels.filter((limit) => v < limit).length;
      return n ? "down-" + Math.min(4, n) : "";
    }
    const centred = scale.centre ? scale.centre(v) : v;
    const n = scale.steps.filter((limit) => Math.abs(centred) >= limit).length;
    return n ? (centred > 0 ? "up-" : "down-") + n : "";
  }

  function Tools({ data, params, onSet }) {
    const beside = besideOf(data, params);
    const sibling = (s) => `${s.kind}:${s.place}`;
    const name = (s) => `${s.place} · ${empo2.modeName(s.mode)} · version ${s.version} · return ${number(s.return)}`;
    const colour = params.colour || "logprob";
    return html`<div class="tools card">
      <${empo2.Choice} label="colour of tokens" value=${colour} options=${[...Object.keys(scales), "none"]}
        names=${{ logprob: "log-prob", none: "none" }} onChange=${(v) => onSet({ colour: v })} />
      <label>beside it<select value=${beside} onChange=${(e) => onSet({ beside: e.target.value || "nothing" })}>
        <option value="nothing">nothing</option>
        ${data.tip_free && html`<option value="tip_free">the tip-free rendering</option>`}
        ${data.siblings?.length > 0 && html`<optgroup label="same task">
          ${data.siblings.map((s) => html`<option key=${sibling(s)} value=${sibling(s)}>${name(s)}</option>`)}
          </optgroup>`}
      </select></label><${Scale} scale=${scales[colour]} /></div>`;
  }

  // Scale explains the colours of tokens.
  function Scale({ scale }) {
    if (!scale) return "";
    const down = scale.levels ? scale.levels.slice(0, 4).map((l, i) => ["down-" + (i + 1), "< " + number(l)])
      : scale.steps.map((s, i) => ["down-" + (i + 1), "≤ " + number(scale.centre ? Math.exp(-s) : -s)]);
    const up = scale.levels ? [] : scale.steps.map((s, i) => ["up-" + (i + 1), scale.centre
      ? "≥ " + number(Math.exp(s)) : "≥ " + number(s)]);
    const key = Object.keys(scales).find((k) => scales[k] === scale);
    return html`<span class="scale"><${Term} k=${key}>${scale.name}
      <//>: ${[...down.toReversed(), ...up].map(([name, text]) =>
      html`<span key=${name} class=${"token " + name}>${text}</span>`)}
        <span class="token masked-token">not trained</span></span>`;
  }

  function Conversation({ run, data, colour, title }) {
    return html`<section class="conversation" aria-label=${"Conversation " + title}><h2>${title}</h2>
      ${data.turns.length ? data.turns.map((turn) => html`<${Turn} key=${turn.number} run=${run} turn=${turn}
        episode=${data.episode} colour=${colour} />`)
        : html`<p class="card empty">No turn is stored.</p>`}
      ${data.episode.turns_cut > 0 && html`<p class="card empty">
        ${whole(data.episode.turns_cut)} more turns are not shown; empo2 show prints all.</p>`}
      ${data.episode.final && html`<div class="span span-feedback"><span class="chip">at the end</span>
        <${Foreign} block text=${data.episode.final} /></div>`}</section>`;
  }

  // spansOf are the spans of a turn's prompt. The reply is shown by its tokens, and glue
  // such as a dash of a list says nothing.
  function spansOf(turn) {
    return (turn.spans || []).filter((span) => span.kind !== "action" && span.kind !== "thought" &&
      !(span.kind === "template" && span.text.replace(/[^\p{L}\p{N}]/gu, "") === ""));
  }

  const spanNames = { system: "system", task: "task", observation: "observation", feedback: "feedback",
    state: "state", tip: "tip", tips: "tips",
    action: "action", thought: "thought", template: "template", error: "error", reflection: "reflection" };

  function Turn({ run, turn, episode, colour }) {
    return html`<article class="turn card" aria-label=${"Turn " + turn.number}>
      <header class="row"><h3>Turn ${turn.number}</h3><span class="muted num">reward <b class="ink">
        ${number(turn.reward)}</b>
        ${turn.done ? " · the episode ended" : ""}${turn.finish === "length" ? html` · <span class="warn">
          <${Term} k="cut">cut<//></span>` : ""}</span></header>
      ${spansOf(turn).map((span, i) => html`<${Span} key=${i} run=${run} span=${span} />`)}
      <div class="span span-reply"><span class="chip">reply</span>
        <div>
        ${!turn.tokens?.some((t) => t.text != null) && html`<${Foreign} block text=${turn.reply} />`}
        ${turn.tokens?.length > 0 && html`<${Tokens} tokens=${turn.tokens} scale=${scales[colour]}
          episode=${episode} />`}</div></div>
      ${turn.action && turn.action !== turn.reply && html`<div class="span span-action">
        <span class="chip">action</span><${Foreign} block text=${turn.action} /></div>`}
      ${!turn.action && html`<div class="span span-error"><span class="chip">no action</span>
        <span>The reply holds no valid action.</span></div>`}
    </article>`;
  }

  function Span({ run, span }) {
    const name = spanNames[span.kind] ? span.kind : "other";
    return html`<div class=${"span span-" + name}><span class="chip">${plain(spanNames[span.kind] || span.kind)}</span>
      <div><${Foreign} block text=${span.text} />
        ${span.author && html` <a class="author"
        href=${address("episode", run, { kind: "training", place: span.author })}>
        written by episode ${plain(span.author)}</a>`}</div></div>`;
  }

  const classOf = (token, scale, episode, current) =>
    `token ${shade(scale, token, episode)} ${token.masked ? "masked-token" : ""} ${current ? "current" : ""}`;

  // Tokens shows a reply by tokens. The arrow keys move between them.
  function Tokens({ tokens, scale, episode }) {
    const [at, setAt] = useState(null);
    const move = (event) => {
      const to = { ArrowLeft: (at ?? tokens.length) - 1, ArrowRight: (at ?? -1) + 1, Home: 0,
        End: tokens.length - 1 }[event.key];
      if (to == null) return;
      event.preventDefault();
      setAt(Math.min(tokens.length - 1, Math.max(0, to)));
    };
    const over = (event) => event.target.dataset.i && setAt(Number(event.target.dataset.i));
    return html`<div><bdi class="foreign block tokens" tabindex="0" role="group"
      aria-label="Tokens of the reply; the arrow keys move between them"
        onKeyDown=${move} onMouseOver=${over}>${tokens.map((t, i) =>
          html`<span key=${i} data-i=${i}
            class=${classOf(t, scale, episode, i === at)}>${visible(t)}</span>`)}</bdi>
      <p class="token-facts muted num" aria-live="polite">
        ${at == null ? `${tokens.length} tokens` : html`<${TokenFacts} token=${tokens[at]} number=${at + 1}
        of=${tokens.length} />`}</p></div>`;
  }

  // visible is a token's text with marks and a sign for a line end, or its id if the text is unknown.
  const visible = (token) => token.text == null ? ` ${token.id} ` : plain(token.text).replaceAll("\n", "↵\n");

  function TokenFacts({ token, number: n, of }) {
    const facts = [["log-prob", number(token.logprob)], ["trainer", number(token.trainer_logprob)],
      ["mismatch", signed(scales.mismatch.of(token))], ["ratio", number(token.ratio)]].filter(([,
        text]) => text !== "–");
    return html`token ${n} of ${of} · id ${token.id} ${token.text != null && html` · <code>
      ${plain(JSON.stringify(token.text))}</code>`}${facts.map(([name, text]) => html` · ${name} <b class="ink">
      ${text}</b>`)}
      ${token.masked ? " · not trained" : ""}`;
  }

  const titleOf = (e) =>
    `episode ${plain(e.place)}, ${empo2.modeName(e.mode)}, version ${e.version}, return ${number(e.return)}`;

  function Beside({ run, data, other, params }) {
    const beside = besideOf(data, params);
    if (beside === "tip_free" && data.tip_free) {
      return html`<section class="conversation" aria-label="Tip-free rendering"><h2><${Term} k="tip_free" /></h2>
        ${data.tip_free.map((turn) => html`<article key=${turn.number} class="turn card"><header class="row">
          <h3>Turn ${turn.number}</h3></header>
          <div class="span"><span class="chip">prompt</span><${Foreign} block text=${turn.text} /></div></article>`)}
            </section>`;
    }
    if (!beside.includes(":")) return "";
    if (!other) return html`<${empo2.Loading} />`;
    return html`<div><${Conversation} run=${run} data=${other} colour=${params.colour || "logprob"}
      title=${titleOf(other.episode)} /></div>`;
  }

  Object.assign(empo2, { Episode });
})();
