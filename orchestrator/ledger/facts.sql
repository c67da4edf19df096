-- What lists and filters need of the episodes, in a narrow table: those of all
-- kinds ("" are training episodes), by place. The columns repeat what is in the
-- episodes, so that the rows can be computed again; that of a damaged or missing
-- one is. task, mode and stop are ids of names. tips holds the keys of the tips
-- that the episode saw or wrote (AppendTip). checksum is the CRC-32 of the row
-- (factsSum).
CREATE TABLE IF NOT EXISTS names(
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS facts(
  kind       TEXT NOT NULL,
  step       INTEGER NOT NULL,
  grp        INTEGER NOT NULL,
  episode    INTEGER NOT NULL,
  task       INTEGER NOT NULL,
  mode       INTEGER NOT NULL,
  version    INTEGER NOT NULL,
  stop       INTEGER NOT NULL,
  env_return REAL NOT NULL,
  success    INTEGER NOT NULL,
  turns      INTEGER NOT NULL,
  cut        INTEGER NOT NULL,            -- replies cut at the limit of tokens
  empty      INTEGER NOT NULL,            -- replies without an action
  tips_shown INTEGER NOT NULL,            -- in its prompts
  tips       BLOB NOT NULL,
  checksum   INTEGER NOT NULL,
  PRIMARY KEY(kind, step, grp, episode)
) WITHOUT ROWID;
-- The texts of sampled tokens, for people who look at episodes. checksum is the
-- CRC-32 of the row (pieceSum).
CREATE TABLE IF NOT EXISTS pieces(
  id       INTEGER PRIMARY KEY,
  text     TEXT NOT NULL,
  checksum INTEGER NOT NULL
);
