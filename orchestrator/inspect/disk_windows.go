package inspect

// FreeDisk returns the bytes that a user can still write to the file system of a
// folder; 0: unknown.
func FreeDisk(string) int64 { return 0 }
