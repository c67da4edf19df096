package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// quickTimeout bounds the check of the database's pages at every start. A large
// database may need longer; [Verify] then checks the rest.
const quickTimeout = 10 * time.Second

// QuickCheck verifies what a start depends on: the pages of the database as far
// as the time allows, the numbers of rows, the order of the steps, and the checkpoint
// of the last one. complete is false if the pages took too long. Rows are verified
// when they are read.
func (l *Ledger) QuickCheck(ctx context.Context) (complete bool, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, quickTimeout, errors.New("the database is large"))
	defer cancel()
	err = checkPages(limited, l.db, "quick_check")
	complete = limited.Err() == nil
	if err != nil && (complete || ctx.Err() != nil) {
		return complete, err
	}
	steps, err := l.Steps(ctx)
	if err != nil {
		return complete, err
	}
	for _, m := range missingRows(ctx, l.db) {
		if m.table != piecesTable { // the run stores them again
			return complete, fmt.Errorf("%w: run.db: table %s: %w%s", ErrDamaged, m.table, m.err, checkHint)
		}
	}
	for i, s := range steps {
		if s.Step != int64(i)+1 {
			return complete, fmt.Errorf("%w: step %d is missing in run.db%s", ErrDamaged, i+1, checkHint)
		}
	}
	if len(steps) == 0 {
		return complete, nil
	}
	return complete, l.VerifyCheckpoint(ctx, steps[len(steps)-1].Version)
}

// A Problem is damage that [Verify] has found.
type Problem struct {
	Place  string `json:"place"` // for example "episodes of step 3" or the path of a file
	Detail string `json:"detail"`
	// Harmless damage costs nothing: the file is written again.
	Harmless bool `json:"harmless"`
}

// A Report is the result of a check of a run's folder.
type Report struct {
	Dir   string `json:"dir"`
	Steps int64  `json:"steps"` // committed steps, as far as they can be counted
	// Unreadable says that run.db is missing, empty or no database, or that its
	// steps cannot be read. Steps and Kept then say nothing.
	Unreadable bool `json:"unreadable,omitempty"`
	// BaseDamaged says that the run's warm-started model is damaged. No step can be
	// trained further then, and going back does not help.
	BaseDamaged bool      `json:"base_damaged,omitempty"`
	Version     int       `json:"version"`  // after the last of them
	Rows        int       `json:"rows"`     // rows of run.db whose checksum is right
	Files       int       `json:"files"`    // files of adapters and checkpoints whose checksum is right
	Problems    []Problem `json:"problems"` // empty: everything is right
	// Kept are the steps that a run can return to, in order: their rows and those
	// before them are right, and so is the checkpoint of their version. Step 0 is
	// always one of them.
	Kept []int64 `json:"kept"`
}

// Newest returns the newest good state: the last step of Kept.
func (r *Report) Newest() int64 { return r.Kept[len(r.Kept)-1] }

// Damaged reports whether there is a problem that is not harmless.
func (r *Report) Damaged() bool {
	for _, p := range r.Problems {
		if !p.Harmless {
			return true
		}
	}
	return false
}

// Add adds a problem. The error's hint is left out.
func (r *Report) Add(place string, err error) { r.add(place, err, false) }

func (r *Report) add(place string, err error, harmless bool) {
	detail, _, _ := strings.Cut(err.Error(), "\n  hint:")
	detail = strings.TrimPrefix(detail, ErrDamaged.Error()+": ")
	r.Problems = append(r.Problems, Problem{Place: place, Detail: detail, Harmless: harmless})
}

// View opens a run that no other process has open, and changes nothing. f must not
// write to it.
func View(ctx context.Context, dir string, f func(*Ledger) error) error {
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return fmt.Errorf("run %s: %w", dir, err)
	}
	defer lock.Close()
	return readDatabase(ctx, filepath.Join(dir, databaseName), func(db *sql.DB) error {
		return f(&Ledger{Dir: dir, db: db})
	})
}

// CheckFolder is QuickCheck of a run that no process has open; it changes nothing. A
// database that Open would create or bring up to date first is left to Open.
func CheckFolder(ctx context.Context, dir string) error {
	err := View(ctx, dir, func(l *Ledger) error {
		var version int
		if err := l.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return explain(err)
		}
		if version < readableVersion || version > schemaVersion {
			return nil
		}
		_, err := l.QuickCheck(ctx)
		return err
	})
	if errors.Is(err, errUnfinishedFile) {
		return nil
	}
	return err
}

func readDatabase(ctx context.Context, path string, f func(db *sql.DB) error) error {
	db, err := connect(ctx, path, reading)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// Verify checks everything in the folder of a run: the pages and the rows of the
// database, the order of steps and versions, and the files of adapters and
// checkpoints. It changes nothing. An error means that the check was impossible;
// damage is in the report.
func Verify(ctx context.Context, dir string) (*Report, error) {
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", dir, err)
	}
	defer lock.Close()
	return verifyFolder(ctx, dir)
}

// verifyFolder is Verify for the owner of the lock.
func verifyFolder(ctx context.Context, dir string) (*Report, error) {
	r := &Report{Dir: dir, Problems: []Problem{}, Kept: []int64{0}}
	path := filepath.Join(dir, databaseName)
	info, err := os.Stat(path)
	if err == nil && info.Size() == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		r.Unreadable = true
		r.Add(path, err)
		return r, nil
	}
	if lost := damagedWAL(path + "-wal"); lost != "" {
		r.Add(path+"-wal", errors.New(lost))
	}
	err = readDatabase(ctx, path, func(db *sql.DB) error {
		v := verifier{ctx: ctx, db: db, report: r}
		return v.run()
	})
	if errors.Is(err, ErrDamaged) {
		r.Unreadable = true
		r.Add(path, err)
		return r, nil
	}
	return r, err
}

// A verifier checks one run.
type verifier struct {
	ctx    context.Context
	db     *sql.DB
	report *Report
}

func (v *verifier) run() error {
	format, err := formatOf(v.ctx, v.db)
	if err != nil {
		return explain(err)
	}
	if format > 0 && format < readableVersion {
		return errEarlierFormat
	}
	if err := checkPages(v.ctx, v.db, "integrity_check"); err != nil {
		v.report.Add(databaseName, err)
	}
	good := v.steps()
	v.unfinished()
	v.rest()
	v.counts()
	v.files(good)
	return v.ctx.Err()
}

// steps verifies the committed steps one by one. It returns those that are right,
// up to the first that is not.
func (v *verifier) steps() []Step {
	var good []Step
	last, broken, bad := v.lastStep(), false, 0
	v.report.Steps = last
	for n := int64(1); n <= last && bad < maxFindings && v.ctx.Err() == nil; n++ {
		s, err := v.step(n)
		if err != nil {
			v.report.Add(fmt.Sprintf("step %d", n), err)
			broken = true
			bad++
			continue
		}
		v.report.Version = s.Version
		if !broken {
			good = append(good, s)
		}
	}
	return good
}

// lastStep is 0 if even that cannot be read; the check of the pages says so. In a
// damaged database the largest number may be any.
func (v *verifier) lastStep() (last int64) {
	const query = "SELECT min(coalesce(max(step), 0), count(*)) FROM steps"
	if v.db.QueryRowContext(v.ctx, query).Scan(&last) != nil {
		v.report.Unreadable = true
		return 0
	}
	return last
}

// step verifies the rows of one step.
func (v *verifier) step(n int64) (Step, error) {
	steps, err := readSteps(v.ctx, v.db, "WHERE step = ?", n)
	if err != nil {
		return Step{}, err
	}
	if len(steps) == 0 {
		return Step{}, errors.New("its row is missing")
	}
	if err := v.planAndEpisodes(n); err != nil {
		return Step{}, err
	}
	content, err := contentOf(v.ctx, v.db, n)
	if err != nil {
		return Step{}, err
	}
	if !agrees(steps[0].content, content...) {
		return Step{}, errors.New("its plan or its episodes are not those that were committed")
	}
	made, err := readVersions(v.ctx, v.db, "WHERE step = ?", n)
	if err != nil {
		return Step{}, err
	}
	if trained := int64(steps[0].Version) == n; trained != (len(made) == 1) {
		return Step{}, fmt.Errorf("it has %d versions in run.db", len(made))
	}
	v.report.Rows += 1 + len(made)
	return steps[0], nil
}

// planAndEpisodes verifies the rows of a step that may be unfinished.
func (v *verifier) planAndEpisodes(n int64) error {
	plans, err := readTable(v.ctx, v.db, "plans", "WHERE step = ?", n)
	if err != nil {
		return err
	}
	found, err := episodes(v.ctx, v.db, "WHERE step = ?", n)
	if err != nil {
		return err
	}
	v.report.Rows += plans + len(found)
	return nil
}

// unfinished verifies the steps after the last committed one. There may be several, one
// after the other, if they were sampled ahead.
func (v *verifier) unfinished() {
	last := v.report.Steps
	for ; last == v.report.Steps || v.planned(last+1); last++ {
		if err := v.planAndEpisodes(last + 1); err != nil {
			v.report.Add(fmt.Sprintf("step %d, which is not committed", last+1), err)
		}
	}
	var others int
	err := v.db.QueryRowContext(v.ctx, `SELECT (SELECT count(*) FROM plans WHERE step > ?1 OR step < 1) +
		(SELECT count(*) FROM episodes WHERE step > ?1 OR step < 1)`, last).Scan(&others)
	if err == nil && others > 0 {
		v.report.Add(databaseName, fmt.Errorf("%d plans and episodes belong to no step", others))
	}
}

// planned reports whether a step has a plan.
func (v *verifier) planned(step int64) bool {
	var n int
	err := v.db.QueryRowContext(v.ctx, "SELECT count(*) FROM plans WHERE step = ?", step).Scan(&n)
	return err == nil && n > 0
}

// rest verifies the tables that no step depends on.
func (v *verifier) rest() {
	for _, name := range []string{"meta", "evaluations", "untrained", "estimates", "events", "imports", "pins"} {
		n, err := readTable(v.ctx, v.db, name, "")
		v.report.Rows += n
		if err != nil {
			v.report.Add("table "+name, err)
		}
	}
	n, err := verifyFacts(v.ctx, &Ledger{db: v.db})
	v.report.Rows += n
	if err != nil { // the next start computes them again
		v.report.add("facts", err, true)
	}
	n, err = verifyPieces(v.ctx, &Ledger{db: v.db})
	v.report.Rows += n
	if err != nil { // the run stores the texts again when it samples the tokens
		v.report.add("table "+piecesTable, err, true)
	}
	text, err := readMeta(v.ctx, v.db, "config")
	file := filepath.Join(v.report.Dir, configName)
	if copied, readErr := os.ReadFile(file); err == nil && text != "" && (readErr != nil || string(copied) != text) {
		v.report.add(file, errors.New("it is not the configuration in run.db, which counts; "+
			"the next empo2 run writes it again"), true)
	}
}

// readTable verifies the rows of a table and returns their number.
func readTable(ctx context.Context, db *sql.DB, name, tail string, args ...any) (int, error) {
	t := tableNamed(name)
	n := len(t.columns)
	rows, err := selectAll(ctx, db, "SELECT "+t.list()+" FROM "+name+" "+tail, n+1, args...)
	if err != nil {
		return 0, explain(err)
	}
	for _, row := range rows {
		what := fmt.Sprintf("row %v of %s", row[:max(1, t.key)], name)
		if err := verify(what, fmt.Sprint(plainValue(row[n])), row[:n]...); err != nil {
			return 0, err
		}
	}
	return len(rows), nil
}

// files verifies the adapters and checkpoints and finds the steps that can be
// returned to.
func (v *verifier) files(good []Step) {
	records := map[int]Version{}
	for _, s := range good {
		made, err := readVersions(v.ctx, v.db, "WHERE version = ?", s.Version)
		if err == nil && len(made) == 1 {
			records[s.Version] = made[0]
		}
	}
	dir := v.report.Dir
	for _, f := range folders(dir) {
		all, err := versions(f.path, f.prefix)
		if err != nil {
			v.report.Add(f.path, err)
		}
		for _, version := range all {
			v.folder(f, version, records[version])
		}
	}
	v.base(filepath.Join(dir, "base"))
	for _, s := range good {
		if s.Version == 0 || v.hasCheckpoint(records[s.Version]) {
			v.report.Kept = append(v.report.Kept, s.Step)
		}
	}
	if last := v.report.Version; last > 0 {
		path := checkpoints(dir).entry(last)
		if _, err := os.Stat(path); err != nil {
			v.report.Add(path, errors.New("the checkpoint of the last step is missing"))
		}
	}
}

// base verifies the run's warm-started model, if it has one.
func (v *verifier) base(dir string) {
	if _, err := os.Stat(dir); err != nil {
		return
	}
	made, err := manifest.Verify(dir, manifest.WarmStart)
	if err != nil {
		v.report.BaseDamaged = true
		v.report.Add(dir, err)
		return
	}
	v.report.Files += len(made.Files)
}

// hasCheckpoint reports whether the checkpoint of a version is there and right.
func (v *verifier) hasCheckpoint(record Version) bool {
	return record.Version > 0 && verifyCheckpoint(v.report.Dir, record) == nil
}

// folder verifies one adapter or checkpoint. Damage to an adapter is harmless,
// because the trainer writes it again from the checkpoint.
func (v *verifier) folder(f folder, version int, record Version) {
	path := f.entry(version)
	if int64(version) > v.report.Steps+1 {
		v.report.Add(path, fmt.Errorf("it belongs to a later step than %d, the last one in run.db", v.report.Steps))
		return
	}
	m, err := manifest.Verify(path, f.manifest)
	isAdapter := f.manifest == manifest.Adapter
	if err == nil && isAdapter {
		sums := map[string]string{}
		for name, file := range m.Files {
			sums[name] = file.SHA256
		}
		err = record.verifyFiles(sums)
	}
	if err == nil && !isAdapter && record.Checkpoint != "" && record.Checkpoint != m.SHA256 {
		err = errors.New("it is another checkpoint than was committed")
	}
	if err != nil {
		uncommitted := int64(version) > v.report.Steps
		v.report.add(path, err, isAdapter || uncommitted)
		return
	}
	v.report.Files += len(m.Files) + 1
}
