CREATE TABLE meta(
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);
-- What a step will do, drawn before anything is sampled.
CREATE TABLE plans(
  step INTEGER PRIMARY KEY,
  plan TEXT NOT NULL                      -- JSON
);
-- Finished training episodes, each whole: turns with the spans of their
-- prompts, ids, log-probs and the tips shown, the rendered rows, the tip
-- written after it.
CREATE TABLE episodes(
  step       INTEGER NOT NULL,
  grp        INTEGER NOT NULL,
  episode    INTEGER NOT NULL,
  task       TEXT NOT NULL,
  mode       TEXT NOT NULL,
  version    INTEGER NOT NULL,
  stop       TEXT NOT NULL,
  env_return REAL NOT NULL,
  score      REAL NOT NULL,
  success    INTEGER NOT NULL,
  trajectory TEXT NOT NULL,               -- JSON
  PRIMARY KEY(step, grp, episode)
) WITHOUT ROWID;
CREATE VIEW turns AS
  SELECT e.step, e.grp, e.episode, t.key AS turn,
         t.value ->> '$.action' AS action, t.value ->> '$.reward' AS reward,
         t.value -> '$.tips' AS tips, t.value -> '$.ids' AS ids,
         t.value -> '$.logprobs' AS logprobs
  FROM episodes e, json_each(e.trajectory, '$.turns') t;
-- Committed steps. version is the policy's after the step.
CREATE TABLE steps(
  step    INTEGER PRIMARY KEY,
  version INTEGER NOT NULL,
  at      TEXT NOT NULL,
  metrics TEXT NOT NULL                   -- JSON
);
CREATE TABLE versions(
  version INTEGER PRIMARY KEY,
  step    INTEGER NOT NULL,
  dir     TEXT NOT NULL,
  sha256  TEXT NOT NULL,
  canary  REAL NOT NULL                   -- largest log-prob difference server against trainer
);
CREATE TABLE evaluations(
  step    INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  version INTEGER NOT NULL,
  result  TEXT NOT NULL,                  -- JSON
  PRIMARY KEY(step, kind)
);
CREATE TABLE events(
  id     INTEGER PRIMARY KEY,
  step   INTEGER NOT NULL,
  at     TEXT NOT NULL,
  kind   TEXT NOT NULL,
  detail TEXT NOT NULL
);
