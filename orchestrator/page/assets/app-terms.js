// What each term of the page means. The page shows them as tips and as a list.
"use strict";
(() => {
  const { html, useEffect, useRef } = empo2;

  // shortcuts can be switched off: who speaks to a computer may type letters by mistake.
  const shortcuts = { on: true };

  const terms = {
    success_without: ["success without tips",
      "Share of evaluation episodes that reached the goal, with no tips in the prompt."],
    success_with: ["success with tips",
      "Share of evaluation episodes that reached the goal, with tips from the memory in the prompt."],
    interval: ["95 % interval",
      "Wilson's interval of a rate: such intervals contain the true rate in 95 % of all cases. It counts only " +
      "the chance in these episodes, not that of another seed."],
    episode: ["episode", "One attempt at a task, from its start to its end."],
    turn: ["turn", "One observation, one reply with an action, one reward."],
    step: ["step", "One round of sampling, training and publishing."],
    group: ["group", "The episodes of one task in a step. Their returns are compared with each other."],
    version: ["version", "A numbered state of the LoRA adapter. Version 0 is the base model."],
    mode: ["mode",
      "On policy: sampled and trained without tips. On policy tips: sampled and trained with tips. Off policy: " +
      "sampled with tips, trained without them."],
    return: ["return", "Sum of the rewards of an episode, as the environment gave them."],
    advantage: ["advantage",
      "How much better an episode is than its group. Its sign says whether its tokens become more or less " +
      "likely."],
    cut: ["cut", "Replies that ended at the limit of tokens (rollout.max_tokens). Their action is often lost."],
    empty: ["empty", "Replies without an action, for example only a thought."],
    no_action: ["no valid action", "Replies that are not empty and whose action the environment refused."],
    cut_tips: ["tips cut", "Tips that end early, at a limit of tokens or of characters."],
    no_gradient: ["groups without gradient", "Groups whose episodes all have the same return. They teach nothing."],
    context_full: ["context full", "Episodes that ended because the context of the model was full."],
    failed: ["failed", "Episodes that ended with an error after all retries. They are not trained on."],
    kl: ["KL",
      "Mean divergence of the policy from the base model, in nats a token. Growth means that the policy moves " +
      "away."],
    entropy: ["entropy",
      "How uncertain the policy is about the next token, in nats. Near zero it no longer explores."],
    mismatch: ["mismatch",
      "Mean difference between the log-probs of the server and those of the trainer, in nats. It should be near " +
      "zero."],
    masked: ["masked",
      "Share of trained tokens whose log-prob is below loss.logprob_floor. They get no policy gradient."],
    ratio: ["ratio",
      "Probability of a token under the trained policy, divided by that under the policy that sampled it."],
    clipped: ["clipped", "Share of tokens whose ratio left the range of the clip."],
    grad_norm: ["gradient norm", "Length of the gradient before it is clipped."],
    logprob: ["log-prob", "Logarithm of the probability that the server gave the token. Zero means certain."],
    tip: ["tip", "One sentence of advice that the policy wrote after an episode. Later episodes may see it."],
    tip_free: ["tip-free rendering",
      "The same conversation without its tips. Off-policy episodes are trained on it."],
    association: ["association",
      "Mean return of the episodes that saw a tip, minus that of episodes of the same task and steps that did " +
      "not. It is no effect: the memory chooses who sees a tip, by the state of the episode. A tip that is " +
      "recalled in hard states looks bad."],
    similarity: ["similarity", "Cosine of the embeddings of two texts. One means equal."],
    score: ["score",
      "Score of an episode, as the environment counts it. That of a tip is the score of the episode that wrote it; " +
      "the memory prefers high ones."],
    bonus: ["bonus", "Intrinsic reward of an episode with tips: it is high for states that are new."],
    approx_kl: ["approximate KL", "Mean of the log-prob before the update less that after it, in nats."],
    new_tips: ["new tips", "Tips that were written in a step."],
    tips_shown: ["tips shown", "Tips in the prompts of an episode. One that several turns show counts each time."],
    tokens: ["tokens by phase",
      "Tokens of a step: of the sampled replies, of the tips, and of the rows that were trained, with their prompts. " +
      "Only some tokens of a row have a loss."],
    seconds: ["seconds by phase", "Seconds of a step. Evaluations are shown where they were made."],
    lost: ["lost texts", "Shares of replies, tips and episodes that are cut, empty, refused or too long."],
    paired: ["paired difference",
      "Difference of the success of two runs on the same tasks, in points of a percentage. Chance in the choice " +
      "of tasks cancels out."],
    cancelled: ["cancelled", "Share of episodes that a step did not wait for (rollout.quorum)."],
    idle: ["idle", "Share of a step in which the server had no training episode to sample, and in which the trainer " +
      "trained nothing."],
    staleness: ["staleness", "How many updates old the version was that sampled a turn. Groups with a turn older " +
      "than rollout.max_staleness are dropped."],
    phase: ["phase", "What the run does now: set-up, sampling, reflection, training, publishing or evaluation."],
    seeds: ["band over seeds",
      "Runs of one setting that differ by their seed. The line is their mean, the band its 95 % bootstrap " +
      "interval."],
  };
  const alias = {
    flat: "no_gradient", return_without: "return", return_with: "return", masked_share: "masked",
    mismatch_max: "mismatch", advantage_mean: "advantage",
  };
  const of = (key) => terms[key] || terms[alias[key]];

  // Term shows a word with its explanation as a tip.
  function Term({ k, children }) {
    const term = of(k);
    if (!term) return children || k;
    return html`<dfn title=${term[1]}>${children || term[0]}</dfn>`;
  }

  // Glossary lists all terms. Readers without a mouse need it.
  function Glossary({ onClose }) {
    const box = useRef(null);
    useEffect(() => {
      scrollTo(0, 0);
      box.current.focus();
    }, []);
    const sorted = Object.values(terms).toSorted((a, b) => a[0].localeCompare(b[0], "en"));
    return html`<section class="glossary card" aria-labelledby="glossary-title" tabindex="-1" ref=${box}>
      <div class="row"><h2 id="glossary-title">Terms</h2>
        <button type="button" class="small" onClick=${onClose}>Close</button></div>
      <dl>${sorted.map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>
      <h3>Keys</h3>
      <dl class="keys">
        <div><dt>1 … 4</dt><dd>Now, Episodes, Memory, Compare</dd></div>
        <div><dt>↑ ↓</dt><dd>the next or the last row of a list</dd></div>
        <div><dt>← →</dt><dd>move the cursor of a chart, or the token of a reply</dd></div>
        <div><dt>Escape</dt><dd>back to the list, or close this</dd></div>
        <div><dt>?</dt><dd>these terms</dd></div>
      </dl>
      <label><input type="checkbox" checked=${shortcuts.on} onChange=${(e) => { shortcuts.on = e.target.checked; }} />
        ${" "}The keys 1 … 4 and ? work</label></section>`;
  }

  Object.assign(empo2, { shortcuts, Term, Glossary, termOf: of });
})();
