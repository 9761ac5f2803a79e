package three

const height = 3

func build(floors int) House { return House{floor{floors}} }
