package memory

import (
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// recentTexts is how many recollections a scope keeps.
const recentTexts = 512

// recollections are the latest recollections of a scope, by the text of the state. The
// episodes of a group begin in the same state and often visit the same ones, and the
// scope does not change between two commits. It is safe for concurrent use.
type recollections struct {
	mu     sync.Mutex
	byText *simplelru.LRU[string, Recollection]
}

func newRecollections() *recollections {
	byText, err := simplelru.NewLRU[string, Recollection](recentTexts, nil)
	if err != nil {
		panic(err) // the size is valid
	}
	return &recollections{byText: byText}
}

// get returns a copy that the caller may change.
func (r *recollections) get(text string) (Recollection, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, ok := r.byText.Get(text)
	found.Tips = slices.Clone(found.Tips)
	return found, ok
}

func (r *recollections) add(text string, found Recollection) {
	found.Tips = slices.Clone(found.Tips)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byText.Add(text, found)
}
