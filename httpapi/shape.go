package httpapi

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// shape is what the strict decoder knows about a JSON value's place in a Go
// type: which names an object may have. It is built once a type and never
// changes.
type shape struct {
	fields map[string]*shape // of a struct; nil for everything else
	elem   *shape            // of a slice, an array or a map
	names  string            // the struct's names as a sentence lists them
	open   bool              // a struct may have other names, whatever they hold
}

// shapeOf describes a type that encoding/json decodes. Recursive types are
// not supported.
func shapeOf(t reflect.Type) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if decodesItself(t) {
		return &shape{}
	}
	switch t.Kind() {
	case reflect.Struct:
		s := &shape{fields: make(map[string]*shape)}
		s.addFields(t)
		s.names = s.list()
		return s
	case reflect.Slice, reflect.Array, reflect.Map:
		return &shape{elem: shapeOf(t.Elem())}
	}
	return &shape{}
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func (s *shape) addFields(t reflect.Type) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			s.addFields(f.Type)
		case !f.IsExported() || name == "-":
		case name == "":
			s.fields[f.Name] = shapeOf(f.Type)
		default:
			s.fields[name] = shapeOf(f.Type)
		}
	}
}

// folded returns a name that encoding/json holds for the given one, "" if there
// is none.
func (s *shape) folded(name string) string {
	for known := range s.fields {
		if strings.EqualFold(known, name) {
			return known
		}
	}
	return ""
}

func (s *shape) list() string {
	names := make([]string, 0, len(s.fields))
	for name := range s.fields {
		names = append(names, `"`+name+`"`)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
