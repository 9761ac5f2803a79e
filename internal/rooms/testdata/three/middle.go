package three

type floor struct{ count int }

func (f floor) number() int { return f.count + height }
