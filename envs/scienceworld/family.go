package scienceworld

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/envs"
)

// A Family opens ScienceWorld episodes. It is safe for concurrent use.
type Family struct {
	config     Config
	jar        jar
	java       java
	flags      []string
	pool       *pool
	catalogue  *catalogue
	provenance Provenance
}

var (
	_ envs.Family   = (*Family)(nil)
	_ envs.Recorded = (*Family)(nil)
)

// Provenance has everything that a score depends on besides the policy. It is stored
// with every score. Scores with different provenance cannot be compared.
type Provenance struct {
	Version         string   `json:"version"`         // of the simulator
	JarSHA256       string   `json:"jar_sha256"`      //
	TypeIDsSHA256   string   `json:"type_ids_sha256"` // the table beside the jar
	Java            string   `json:"java"`            //
	Flags           []string `json:"flags"`           // of the JVM
	Reads           Reads    `json:"reads"`           //
	Isolation       string   `json:"isolation"`       //
	Actions         Actions  `json:"actions"`         //
	Simplifications string   `json:"simplifications"` //
	StepLimit       int      `json:"step_limit"`      //
	MaxActions      int      `json:"max_actions"`     //
	Deterministic   bool     `json:"deterministic"`   //
}

// Open finds and checks the jar and Java, starts the first simulator and reads the
// tasks from it. A wrong key is an error with a hint.
func Open(ctx context.Context, c Config) (*Family, error) {
	err := c.Check()
	if err == nil {
		c, err = c.withDefaults()
	}
	if err != nil {
		return nil, fmt.Errorf("scienceworld: %w", err)
	}
	f := &Family{config: c}
	if err := f.find(ctx); err != nil {
		return nil, fmt.Errorf("scienceworld: %w", err)
	}
	l := launcher{java: f.java, jar: f.jar, flags: f.flags, inherit: c.Inherit, timeout: c.Deadlines.Start,
		log: c.Log}
	f.pool = newPool(c.Concurrency, c.PerJVM, c.Budget, func(ctx context.Context) (host, error) {
		return launchHost(ctx, l, c.PerJVM > 1, c.Reads, c.Deadlines)
	})
	if err := f.read(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("scienceworld: %w", err), f.Close())
	}
	return f, nil
}

// find finds the jar and Java.
func (f *Family) find(ctx context.Context) (err error) {
	c := f.config
	if f.jar, err = findJar(ctx, c.Jar, c.JarSHA256); err != nil {
		return err
	}
	if f.java, err = findJava(ctx, c.Java, !c.Nondeterministic); err != nil {
		return err
	}
	f.flags = jvmFlags(!c.Nondeterministic, c.HeapMB)
	table, err := checksum(f.jar.typeIDs)
	if err != nil {
		return err
	}
	f.provenance = Provenance{
		Version: f.jar.version, JarSHA256: f.jar.sha256, TypeIDsSHA256: table, Java: f.java.version, Flags: f.flags,
		Reads: c.Reads, Isolation: string(c.Isolation), Actions: c.Actions, Simplifications: c.Simplifications,
		StepLimit: c.StepLimit, MaxActions: c.MaxActions, Deterministic: !c.Nondeterministic,
	}
	return nil
}

// read fills the catalogue from a running simulator.
func (f *Family) read(ctx context.Context) error {
	return f.pool.with(ctx, func(sim *simulator) (err error) {
		f.catalogue, err = readCatalogue(ctx, sim, f.config)
		return err
	})
}

// Name implements [envs.Family].
func (f *Family) Name() string { return Name }

// Provenance returns the facts that the scores of this family depend on.
func (f *Family) Provenance() Provenance { return f.provenance }

// Record implements [envs.Recorded].
func (f *Family) Record() any { return f.provenance }

// Tasks implements [envs.Family]. It lists the variations of a split in the
// simulator's order, task by task. The instruction is the list of commands. The text
// of a variation is in the first observation, because reading it takes a load of 0.1
// seconds, and there are 7,207 variations.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	if _, err := splitMethod(split); err != nil {
		return nil, fmt.Errorf("scienceworld: %w", err)
	}
	variants := f.catalogue.splits[split]
	tasks := make([]envs.Task, len(variants))
	for i, v := range variants {
		tasks[i] = envs.Task{ID: v.String(), Scope: v.String(), Instruction: f.catalogue.instruction(v.task)}
	}
	return tasks, nil
}

// Open implements [envs.Family]. It waits while all simulators are in use.
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	v, err := parseVariant(t.ID)
	if err == nil {
		err = f.catalogue.check(v)
	}
	if err != nil {
		return nil, fmt.Errorf("scienceworld: %w", err)
	}
	inst, err := f.pool.acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("scienceworld %s: %w", v, err)
	}
	return envs.Guard(&episode{family: f, variant: v, inst: inst}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error {
	f.pool.close()
	return nil
}
