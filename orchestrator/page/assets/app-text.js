// Numbers for readers, and texts from outside: no text can change what is around it.
"use strict";
(() => {
  const { html, useState } = empo2;

  // Control characters except tab and line end, characters that change the direction of a
  // text, invisible characters, separators of Unicode, and halves of surrogate pairs.
  const hidden = new RegExp("[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b-\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]|[\\ud800-\\udbff](?![\\udc00-\\udfff])|" +
    "(?<![\\ud800-\\udbff])[\\udc00-\\udfff]|\\udb40[\\udc00-\\udfff]", "g");
  const code = (char) => "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

  // plain is a text for attributes and options: hidden characters are written as ⟨U+202E⟩.
  const plain = (text) => String(text ?? "").replace(hidden, (char) => "⟨" + code(char) + "⟩");

  // marked returns the text with hidden characters as marks.
  function marked(text) {
    const out = [];
    let from = 0;
    for (const found of text.matchAll(hidden)) {
      if (found.index > from) out.push(text.slice(from, found.index));
      out.push(html`<span class="hidden-char">${code(found[0])}</span>`);
      from = found.index + found[0].length;
    }
    if (from < text.length) out.push(text.slice(from));
    return out;
  }

  const firstChars = 6000;
  const moreChars = 200_000;

  // Foreign shows a text from outside. Of a long one it shows the beginning first.
  function Foreign({ text, block }) {
    const [limit, setLimit] = useState(firstChars);
    const all = String(text ?? "");
    const rest = all.length - limit;
    const shown = html`<bdi class=${block ? "foreign block" : "foreign"}>
      ${marked(rest > 0 ? all.slice(0, limit) : all)}</bdi>`;
    if (rest <= 0) return shown;
    return html`${shown} <button type="button" class="small" onClick=${() => setLimit(limit + moreChars)}>
      show ${whole(Math.min(rest, moreChars))} more of ${whole(all.length)} characters</button>`;
  }

  const whole = (n) => n == null ? "–" : Math.round(n).toLocaleString("en-US");

  // number rounds to significant digits. Unknown values are a dash.
  function number(value, digits = 3) {
    if (value == null || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 10_000) return whole(value);
    if (size !== 0 && size < 0.001) return value.toExponential(1).replace("-", "−");
    const places = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
    return minus(value.toFixed(Math.min(places, 4)));
  }

  const minus = (text) => text.replace("-", "−");
  const percent = (fraction) => fraction == null ? "–" : minus((100 * fraction).toFixed(1)) + " %";
  const signed = (value, format = number) => value == null ? "–" : (value > 0 ? "+" : "") + format(value);

  // value formats with a unit: "%" means that the value is a fraction.
  const value = (v, unit) => unit === "%" ? percent(v) : number(v) + (unit && v != null ? " " + unit : "");

  function duration(seconds) {
    if (seconds == null || !isFinite(seconds)) return "–";
    if (seconds < 10) return Math.max(0, seconds).toFixed(1) + " s";
    if (seconds < 120) return Math.round(seconds) + " s";
    if (seconds < 7200) return Math.round(seconds / 60) + " min";
    if (seconds < 172_800) return (seconds / 3600).toFixed(1) + " h";
    return Math.round(seconds / 86_400) + " days";
  }

  // since returns the time from a moment until now.
  const since = (moment) => moment ? duration((Date.now() - new Date(moment)) / 1000) : "–";

  // when is a moment in the reader's time zone.
  function when(moment) {
    const date = new Date(moment || NaN);
    return isNaN(date) ? "–" : date.toLocaleString("sv-SE").slice(0, 16);
  }

  Object.assign(empo2, { plain, Foreign, whole, number, percent, signed, value, duration, since, when });
})();
