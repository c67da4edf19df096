// Package scienceworld runs the ScienceWorld simulator, a Scala program in a
// jar, as an [envs.Family].
//
// The simulator's own JVM gateway (py4j) is spoken from Go; Python takes no
// part. A pool of simulators is kept warm and reused from episode to episode.
// Several simulators share one JVM, each in a class loader of its own, because
// the simulator keeps its random stream and its object numbers in singletons;
// with [IsolateJVM] each gets a JVM.
//
// What makes a score repeatable, and is therefore part of [Provenance]:
//
//   - the jar, by version and checksum;
//   - the JVM's flags: the simulator iterates over hash sets whose order is
//     that of the identity hashes, which [Config.Nondeterministic] leaves random;
//   - the reads: listing the valid actions draws from the simulator's random
//     stream, so [ReadFull] and [ReadLazy] are two different environments.
//
// A JVM that died or hangs is killed and replaced. The episodes it carried are
// played again from their first action on another simulator, and go on where
// they were if every answer was the same; the policy sees nothing of it. Other
// JVMs are not touched.
//
// The gateway has no authentication (the jar bundles a py4j from before that
// existed): it listens on the loopback interface only, but any process of this
// machine can reach it while a run lasts.
package scienceworld
