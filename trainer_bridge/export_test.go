package trainerbridge

import "testing"

// RealTrainer is realTrainer for tests outside the package.
func RealTrainer(t testing.TB) ProcessConfig { return realTrainer(t) }

// PID returns the trainer's process id.
func (l *Local) PID() int { return l.process.Ready().PID }

// Exited is closed when the trainer's process has ended.
func (l *Local) Exited() <-chan struct{} { return l.process.Exited() }

// Followers returns the process ids of the trainer's other ranks.
func (l *Local) Followers() []int { return l.process.Ready().Followers }
