-- Every table has a column checksum: the SHA-256 of the other columns of a row.
CREATE TABLE meta(
  key      TEXT PRIMARY KEY,
  value    TEXT NOT NULL,
  checksum TEXT NOT NULL
);
-- The random draws of a step, made before anything is sampled.
CREATE TABLE plans(
  step     INTEGER PRIMARY KEY,
  plan     TEXT NOT NULL,                 -- JSON
  checksum TEXT NOT NULL
);
-- Finished training episodes. The trajectory holds the turns (spans of their
-- prompts, tips shown) and the tip that was written afterwards; tokens and
-- logprobs hold the arrays of numbers (rollout.Pack). trajectory and tokens are
-- compressed with raw DEFLATE. A row that an earlier format wrote has all of it
-- in trajectory, as text. The table has row ids: without them, SQLite would move
-- what is larger than 1 KB to a page of its own.
CREATE TABLE episodes(
  step       INTEGER NOT NULL,            -- training step
  grp        INTEGER NOT NULL,            -- group within the step
  episode    INTEGER NOT NULL,            -- episode within the group
  task       TEXT NOT NULL,
  mode       TEXT NOT NULL,               -- on_policy, on_policy_tips, off_policy
  version    INTEGER NOT NULL,            -- of the policy that sampled
  stop       TEXT NOT NULL,               -- why the episode ended
  env_return REAL NOT NULL,               -- sum of the environment's rewards
  score      REAL NOT NULL,
  success    INTEGER NOT NULL,
  at         TEXT NOT NULL,               -- when it ended; empty: unknown
  trajectory BLOB NOT NULL,               -- JSON, compressed
  tokens     BLOB NOT NULL,               -- token ids, compressed
  logprobs   BLOB NOT NULL,               -- float32, little-endian
  checksum   TEXT NOT NULL,
  PRIMARY KEY(step, grp, episode)
);
-- Episodes that are not trained: those of evaluations (kind is the split, or
-- "command" for empo2 eval) and those that failed (kind "failed"). The other
-- columns are those of episodes.
CREATE TABLE untrained(
  kind       TEXT NOT NULL,
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
  at         TEXT NOT NULL,
  trajectory BLOB NOT NULL,
  tokens     BLOB NOT NULL,
  logprobs   BLOB NOT NULL,
  checksum   TEXT NOT NULL,
  PRIMARY KEY(kind, step, grp, episode)
);
-- What a committed step made of its episodes. logprobs are the trainer's of the
-- trained tokens in the trained context, before the step's update, one float32
-- per token in the order of the turns; empty: not computed.
CREATE TABLE estimates(
  step       INTEGER NOT NULL,
  grp        INTEGER NOT NULL,
  episode    INTEGER NOT NULL,
  advantage  REAL NOT NULL,
  bonus      REAL NOT NULL,               -- intrinsic reward
  tokens     INTEGER NOT NULL,            -- trained; 0: not trained
  logprobs   BLOB NOT NULL,
  checksum   TEXT NOT NULL,
  PRIMARY KEY(step, grp, episode)
) WITHOUT ROWID;
-- Committed steps. version is the version of the policy after the step.
CREATE TABLE steps(
  step     INTEGER PRIMARY KEY,
  version  INTEGER NOT NULL,
  at       TEXT NOT NULL,
  metrics  TEXT NOT NULL,                 -- JSON
  content  TEXT NOT NULL,                 -- SHA-256 of the checksums of its plan and its episodes
  checksum TEXT NOT NULL
);
CREATE TABLE versions(
  version    INTEGER PRIMARY KEY,
  step       INTEGER NOT NULL,
  dir        TEXT NOT NULL,
  sha256     TEXT NOT NULL,               -- of the adapter's safetensors file
  canary     REAL NOT NULL,               -- largest difference of log-probs, server against trainer
  files      TEXT NOT NULL,               -- JSON: SHA-256 of each file of the adapter by its name
  checkpoint TEXT NOT NULL,               -- SHA-256 of the checkpoint's manifest; empty: unknown
  checksum   TEXT NOT NULL
);
CREATE TABLE evaluations(
  step     INTEGER NOT NULL,
  kind     TEXT NOT NULL,                 -- the split: eval or test
  version  INTEGER NOT NULL,
  result   TEXT NOT NULL,                 -- JSON
  checksum TEXT NOT NULL,
  PRIMARY KEY(step, kind)
);
CREATE TABLE events(
  id       INTEGER PRIMARY KEY,
  step     INTEGER NOT NULL,
  at       TEXT NOT NULL,
  kind     TEXT NOT NULL,
  detail   TEXT NOT NULL,
  checksum TEXT NOT NULL
);
-- What the run's results depend on, by checksum: files of the model, the effect
-- of its chat template and of its tokenizer.
CREATE TABLE pins(
  name     TEXT PRIMARY KEY,
  value    TEXT NOT NULL,                 -- SHA-256
  step     INTEGER NOT NULL,              -- after which it was recorded
  checksum TEXT NOT NULL
);
-- Tips that were imported into the memory, as they were read.
CREATE TABLE imports(
  id       INTEGER PRIMARY KEY,
  step     INTEGER NOT NULL,              -- after which they were imported
  records  TEXT NOT NULL,                 -- JSON lines
  checksum TEXT NOT NULL
);
