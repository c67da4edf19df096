package page

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

type episodeAnswer struct {
	Episode shownEpisode `json:"episode"`
	Turns   []turn       `json:"turns"`
	// TipFree is what each turn added to the prompt without its tips; null: no tip was
	// shown.
	TipFree  []tipFree `json:"tip_free"`
	Siblings []sibling `json:"siblings"`
}

type shownEpisode struct {
	row
	Score         number  `json:"score"`
	Bonus         number  `json:"bonus"`
	TokensTrained int     `json:"tokens_trained"`
	TipWritten    string  `json:"tip_written"`
	TipCut        bool    `json:"tip_cut"`
	Scope         string  `json:"scope"`
	Final         string  `json:"final"` // what the environment said after the last action
	Took          float64 `json:"took_s"`
	TurnsCut      int     `json:"turns_cut"` // turns that the answer leaves out
}

type turn struct {
	Number  int     `json:"number"`
	Spans   []span  `json:"spans"`
	Reply   string  `json:"reply"`
	Action  string  `json:"action"`
	Reward  number  `json:"reward"`
	Done    bool    `json:"done"`
	Finish  string  `json:"finish"`
	Version int     `json:"version"`
	Similar int     `json:"similar"` // in the memory; -1: it was not asked
	Took    float64 `json:"took_s"`
	Tokens  []token `json:"tokens"`
}

// span is a piece of a conversation.
type span struct {
	Kind   string  `json:"kind"`
	Text   string  `json:"text"`
	Author *string `json:"author"` // the place of the episode that wrote a tip; null: unknown
}

// token is a sampled token. What is null is not known.
type token struct {
	ID             int32   `json:"id"`
	Text           *string `json:"text"`
	Logprob        number  `json:"logprob"`
	TrainerLogprob number  `json:"trainer_logprob"`
	Ratio          number  `json:"ratio"`
	Masked         bool    `json:"masked"`
}

type tipFree struct {
	Number int    `json:"number"`
	Text   string `json:"text"`
}

// sibling is an episode of the same task with another mode or version.
type sibling struct {
	Place   string `json:"place"`
	Kind    string `json:"kind"`
	Mode    string `json:"mode"`
	Version int    `json:"version"`
	Return  number `json:"return"`
	Success bool   `json:"success"`
}

// Limits of the answer for an episode.
const (
	maxTurns    = 1000
	maxTokens   = 4096    // of a turn
	maxText     = 1 << 18 // bytes of one text
	maxSiblings = 40
)

func answerEpisode(ctx context.Context, o *openRun, r *http.Request) (any, error) {
	place, err := view.ParsePlace(r.URL.Query().Get("place"))
	if err != nil || !place.One() {
		return nil, badRequest("place: %s is no place of an episode, for example 3/1/4", quoted(r.URL.Query().Get("place")))
	}
	return o.episode(ctx, kindOf(r.URL.Query().Get("kind")), place)
}

func (o *openRun) episode(ctx context.Context, kind string, place view.Place) (*episodeAnswer, error) {
	e, err := o.Episode(ctx, view.Query{Kind: kind, In: place})
	if err != nil {
		return nil, err
	}
	authors, err := o.Authors(ctx, e)
	if err != nil {
		return nil, err
	}
	t := e.Trajectory
	out := episodeAnswer{Episode: shownEpisode{
		row: rowOf(e), Score: number(e.Score), Bonus: unknown, TipWritten: shorten(e.Tip, maxText), TipCut: t.TipCut,
		Scope: shorten(t.Task.Scope, maxName), Took: t.Took.Seconds(),
		Final: shorten(strings.TrimSpace(t.Final.Feedback+"\n"+t.Final.State), maxText),
	}, Turns: []turn{}}
	if e.Estimate != nil {
		out.Episode.Bonus, out.Episode.TokensTrained = number(e.Estimate.Bonus), e.Estimate.Tokens
	}
	shown := t.Turns[:min(len(t.Turns), maxTurns)]
	out.Episode.TurnsCut = len(t.Turns) - len(shown)
	trained := trainedTokens(o.lossFloor(ctx), e)
	for i, turned := range shown {
		shownTurn := turnOf(i+1, turned, authors)
		shownTurn.Done = i == len(t.Turns)-1
		shownTurn.Tokens = tokensOf(turned, trained[i])
		if err := o.setPieces(ctx, shownTurn.Tokens); err != nil {
			return nil, err
		}
		out.Turns = append(out.Turns, shownTurn)
	}
	out.TipFree = withoutTips(shown)
	out.Siblings, err = o.siblings(ctx, kind, e)
	return &out, err
}

// turnOf describes what the policy saw and wrote in a turn.
func turnOf(n int, t rollout.Turn, authors map[prompt.Tip]view.Place) turn {
	out := turn{Number: n, Spans: []span{}, Reply: shorten(cmp.Or(t.Text, t.Action), maxText),
		Action: shorten(t.Action, maxText), Reward: number(t.Reward), Finish: string(t.Finish), Version: t.Version,
		Similar: t.Similar, Took: t.Took.Seconds()}
	for _, message := range t.Prompt {
		for _, s := range message.Spans {
			switch {
			case s.Text == "":
			case s.Kind == chat.TipsSpan:
				out.Spans = append(out.Spans, tipSpans(shorten(s.Text, maxText), t.Tips, authors)...)
			default:
				out.Spans = append(out.Spans, span{Kind: kindOfSpan(s.Kind), Text: shorten(s.Text, maxText)})
			}
		}
	}
	if thought := strings.TrimSuffix(out.Reply, answerOf(out.Reply)); thought != "" {
		out.Spans = append(out.Spans, span{Kind: "thought", Text: thought})
	}
	if out.Action != "" {
		out.Spans = append(out.Spans, span{Kind: "action", Text: out.Action})
	}
	return out
}

// answerOf is the reply without its thought.
func answerOf(reply string) string {
	answer, _ := chat.SplitThought(reply)
	return answer
}

func kindOfSpan(kind chat.SpanKind) string {
	switch kind {
	case chat.FeedbackSpan, chat.StateSpan:
		return "observation"
	case chat.ReflectionSpan:
		return "template"
	}
	return string(kind)
}

// tipSpans divides the text of a turn's tips into the tips, with their authors, and
// what the template wrote around them.
func tipSpans(text string, tips []prompt.Tip, authors map[prompt.Tip]view.Place) []span {
	var out []span
	for _, tip := range tips {
		before, rest, found := strings.Cut(text, tip.Text)
		if !found || tip.Text == "" {
			continue
		}
		if before = strings.TrimRight(before, " \n-*•"); strings.TrimSpace(before) != "" { // without the mark of the list
			out = append(out, span{Kind: "template", Text: strings.TrimSpace(before)})
		}
		s := span{Kind: "tip", Text: tip.Text}
		if place, ok := authors[tip]; ok {
			author := place.String()
			s.Author = &author
		}
		out, text = append(out, s), rest
	}
	if strings.TrimSpace(text) != "" {
		kind := "template"
		if len(out) == 0 {
			kind = "tip"
		}
		out = append(out, span{Kind: kind, Text: strings.TrimSpace(text)})
	}
	return out
}

// trainedToken is what the trainer said of a sampled token.
type trainedToken struct {
	logprob number
	masked  bool
}

// trainedTokens returns, for each turn, what the trainer said of its tokens; nil: it is
// not known. The trainer's log-probs are those of all sampled tokens, in order, if
// none was left out.
func trainedTokens(floor float64, e view.Episode) [][]trainedToken {
	out := make([][]trainedToken, len(e.Trajectory.Turns))
	all := 0
	for _, t := range e.Trajectory.Turns {
		all += len(t.IDs)
	}
	if e.Estimate == nil || len(e.Estimate.Logprobs) != all {
		return out
	}
	rest := e.Estimate.Logprobs
	for i, t := range e.Trajectory.Turns {
		out[i] = make([]trainedToken, len(t.IDs))
		for k := range t.IDs {
			v := float64(rest[k])
			// The mask acts on off-policy rows only.
			masked := e.Mode == string(orchestrator.OffPolicy) && v < floor
			out[i][k] = trainedToken{number(v), masked}
		}
		rest = rest[len(t.IDs):]
	}
	return out
}

// lossFloor is the log-prob below which tokens of off-policy rows are masked.
func (o *openRun) lossFloor(ctx context.Context) float64 {
	text, err := o.Config(ctx)
	if err != nil {
		return math.Inf(-1)
	}
	c, err := config.Parse(text, "run.db")
	if err != nil { // an earlier version wrote it
		return math.Inf(-1)
	}
	return c.Loss.LogprobFloor
}

func tokensOf(t rollout.Turn, trained []trainedToken) []token {
	out := make([]token, min(len(t.IDs), maxTokens))
	for i := range out {
		k := token{ID: t.IDs[i], Logprob: unknown, TrainerLogprob: unknown, Ratio: unknown}
		if i < len(t.Logprobs) {
			k.Logprob = number(t.Logprobs[i])
		}
		if trained != nil {
			k.TrainerLogprob, k.Masked = trained[i].logprob, trained[i].masked
			k.Ratio = number(math.Exp(float64(k.TrainerLogprob - k.Logprob)))
		}
		out[i] = k
	}
	return out
}

// setPieces sets the texts of tokens, as far as the run has stored them.
func (o *openRun) setPieces(ctx context.Context, tokens []token) error {
	ids := make([]int32, len(tokens))
	for i, t := range tokens {
		ids[i] = t.ID
	}
	pieces, err := o.Pieces(ctx, ids)
	for i := range tokens {
		if text, known := pieces[tokens[i].ID]; known {
			tokens[i].Text = &text
		}
	}
	return err
}

// withoutTips renders the prompts of an episode without tips; nil: it showed none.
func withoutTips(turns []rollout.Turn) []tipFree {
	if !slices.ContainsFunc(turns, func(t rollout.Turn) bool { return len(t.Tips) > 0 }) {
		return nil
	}
	out := make([]tipFree, len(turns))
	for i, t := range turns {
		var texts []string
		for _, m := range t.Prompt {
			if text := m.WithoutTips().Text(); text != "" {
				texts = append(texts, text)
			}
		}
		out[i] = tipFree{i + 1, shorten(strings.Join(texts, "\n"), maxText)}
	}
	return out
}

// siblings returns the newest episodes of the same task that were sampled in another
// mode or from another version.
func (o *openRun) siblings(ctx context.Context, kind string, e view.Episode) ([]sibling, error) {
	out := []sibling{}
	kinds := []string{kind, "", "eval"}
	for i, k := range kinds {
		if slices.Contains(kinds[:i], k) {
			continue
		}
		f := ledger.AllOf(k)
		f.Task, f.Limit = e.Task, maxSiblings
		page, err := o.PageOf(ctx, f, "")
		if err != nil {
			return nil, err
		}
		for _, s := range page.Rows {
			if s.Kind == e.Kind && s.Mode == e.Mode && s.Version == e.Version || s.Kind == e.Kind && s.Place == e.Place {
				continue
			}
			out = append(out, sibling{s.Place.String(), s.Kind, s.Mode, s.Version, number(s.Return), s.Success})
		}
	}
	return out[:min(len(out), maxSiblings)], nil
}
