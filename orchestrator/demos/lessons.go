package demos

import (
	"context"
	"fmt"

	"github.com/empo2/empo2/envs"
)

// withoutTipsEvery is the share of lessons that are rendered without the tips that
// they have: one in so many.
const withoutTipsEvery = 4

// Lessons returns the demonstrations of n lessons. A lesson that shows tips is
// rendered with them, except every fourth. All others are rendered without tips
// and end with the tip that the policy should write.
func (r Renderer) Lessons(ctx context.Context, teacher envs.Teacher, seed uint64, n int) ([]Demonstration, error) {
	var all []Demonstration
	for i := range n {
		lesson, err := teacher.Lesson(ctx, seed, uint64(i))
		if err != nil {
			return nil, fmt.Errorf("lesson %d of seed %d: %w", i, seed, err)
		}
		if i%withoutTipsEvery != withoutTipsEvery-1 && hasTips(lesson) {
			with, err := r.withTips(lesson)
			if err != nil {
				return nil, err
			}
			all = append(all, with...)
			continue
		}
		without, err := r.withoutTips(lesson)
		if err != nil {
			return nil, err
		}
		all = append(all, without)
	}
	return all, nil
}
