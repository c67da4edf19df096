package webshop

// emoji matches an emoji sequence (Unicode Technical Standard 51) at i: a flag, a keycap,
// or pictographs with zero-width joiners between them.
func (t *tokenizer) emoji(i int) int {
	switch {
	case t.class(i)&regional != 0:
		if second := t.next(i); t.class(second)&regional != 0 {
			return t.next(second)
		}
		return i
	case t.isKeyCapBase(i):
		return t.keyCapSequence(i)
	}
	end := t.pictograph(i)
	if end == i {
		return i
	}
	for {
		joiner := end
		if t.at(end) != zeroWidthJoiner && t.at(end-1) == zeroWidthJoiner {
			joiner = end - 1 // the joiner was matched as an extender
		}
		if t.at(joiner) != zeroWidthJoiner {
			return end
		}
		next := t.pictograph(joiner + 1)
		if next == joiner+1 {
			return end
		}
		end = next
	}
}

// at is rune i, or 0 beyond the limit.
func (t *tokenizer) at(i int) rune {
	if i >= t.limit {
		t.reached = true
		return 0
	}
	return t.runes[i]
}

func (t *tokenizer) isKeyCapBase(i int) bool {
	r := t.at(i)
	return r >= '0' && r <= '9' || r == '#' || r == '*'
}

// extended is the position after rune i and its extenders. The two presentation selectors
// are not extenders here.
func (t *tokenizer) extended(i int) int {
	for i++; t.class(i)&extender != 0 && t.at(i) != textPresentation && t.at(i) != emojiPresentation; i++ {
	}
	return i
}

func (t *tokenizer) keyCapSequence(start int) int {
	end := t.extended(start)
	if t.at(end) == emojiPresentation && t.at(end+1) == keyCap {
		return t.extended(end + 1)
	}
	for i := start + 1; i < end; i++ {
		if t.at(i) == keyCap {
			return end
		}
	}
	return start
}

// pictograph matches joiners, one pictograph with its extenders, and its
// presentation selector or skin tone.
func (t *tokenizer) pictograph(start int) int {
	if t.class(start)&modifier != 0 {
		return t.extended(start)
	}
	i := start
	for t.at(i) == zeroWidthJoiner {
		i++
	}
	if t.class(i)&modifierBase != 0 {
		if tone := t.extended(i); t.class(tone)&modifier != 0 {
			return t.extended(tone)
		}
	}
	if t.class(i)&(pictograph|modifier) != pictograph {
		return start
	}
	end := t.extended(i)
	if t.at(end) == emojiPresentation {
		end++
	}
	return end
}
