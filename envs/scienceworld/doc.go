// Package scienceworld runs the ScienceWorld simulator, a Scala program in a
// jar, as an [envs.Family].
//
// The package speaks the protocol of the simulator's JVM gateway (py4j). Python is
// not needed. A pool of simulators is reused for many episodes. Several simulators
// share one JVM. Each has its own class loader, because the simulator has its
// random stream and its object numbers in singletons. With [IsolateJVM] each has
// its own JVM.
//
// A score can be repeated only with the same [Provenance]:
//
//   - the version and checksum of the jar;
//   - the flags of the JVM: the simulator iterates over hash sets, whose order
//     depends on the identity hashes. [Config.Nondeterministic] leaves them random;
//   - the reads: listing the valid actions draws from the simulator's random
//     stream, so [ReadFull] and [ReadLazy] are different environments.
//
// A JVM that has ended or hangs is killed and replaced. Its episodes are replayed
// from their first action on another simulator. If all answers are the same, they
// continue, and the policy does not notice. Other JVMs are not affected.
//
// The gateway has no authentication, because the jar has an old version of py4j.
// It listens on the loopback interface only, but every process on this machine can
// connect to it during a run.
//
// Read family.go and episode.go first. pool.go and host.go manage the simulators,
// simulator.go calls one, and gateway.go and py4j.go are the protocol.
package scienceworld
