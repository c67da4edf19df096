package advantage

// Turn is one action of an episode, as GiGPO sees it.
type Turn struct {
	Anchor string  // the state that the policy acted in, without tips
	Reward float64 // from the environment
}

// StepOptions are GiGPO's own settings.
type StepOptions struct {
	Discount  float64 // γ of the returns that begin at a turn
	Weight    float64 // ω of the turns' advantages
	Normalize bool    // divide by the standard deviation of the anchor's returns
}

// AddTurns returns the advantage of each turn of one group's episodes (GiGPO, arXiv
// 2505.10978): A_E + ω·A_S. A_E is the episode's advantage. A_S compares the discounted
// return G_t = Σ_{k≥t} γ^{k-t}·r_k with the mean over all turns of the group that began
// in the same state, whenever that was. It is 0 for a state that occurs once.
func AddTurns(episodes []float64, turns [][]Turn, o StepOptions) [][]float64 {
	type place struct{ episode, turn int }
	out := make([][]float64, len(turns))
	returns := make([][]float64, len(turns))
	var anchors []string // in the order of their first turns
	at := map[string][]place{}
	for i, ts := range turns {
		out[i], returns[i] = make([]float64, len(ts)), make([]float64, len(ts))
		g := 0.0
		for t := len(ts) - 1; t >= 0; t-- {
			g = ts[t].Reward + o.Discount*g
			returns[i][t] = g
		}
		for t, turn := range ts {
			out[i][t] = episodes[i]
			if at[turn.Anchor] == nil {
				anchors = append(anchors, turn.Anchor)
			}
			at[turn.Anchor] = append(at[turn.Anchor], place{i, t})
		}
	}
	for _, anchor := range anchors {
		same := make([]Episode, len(at[anchor])) // a group of returns like any other
		for n, p := range at[anchor] {
			same[n].Env = returns[p.episode][p.turn]
		}
		advantages, _ := Estimate(same, Group, o.Normalize)
		for n, p := range at[anchor] {
			out[p.episode][p.turn] += o.Weight * advantages[n]
		}
	}
	return out
}
