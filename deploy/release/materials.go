package main

import (
	"debug/buildinfo"
	"encoding/json"
	"strings"
)

// bom is a bill of materials in the form of CycloneDX 1.5. It has no serial number and no
// time, which would differ from build to build.
type bom struct {
	BOMFormat    string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// billOfMaterials lists the modules in the program, from what the linker wrote into it.
func billOfMaterials(version string, p platform, info *buildinfo.BuildInfo) ([]byte, error) {
	app := part("application", module, version, property{"oncekv:platform", p.os + "/" + p.arch})
	b := bom{
		BOMFormat: "CycloneDX", SpecVersion: "1.5", Version: 1, Metadata: metadata{app},
		Components: []component{part("library", "std", strings.TrimPrefix(info.GoVersion, "go"))},
	}
	for _, m := range info.Deps {
		// Go's digest of a module covers its files: it is not a hash in CycloneDX's sense.
		b.Components = append(b.Components, part("library", m.Path, m.Version, property{"go:sum", m.Sum}))
	}
	all := dependency{Ref: app.Ref}
	for _, c := range b.Components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Dependencies = []dependency{all}
	data, err := json.MarshalIndent(b, "", "  ")
	return append(data, '\n'), err
}

func part(kind, name, version string, properties ...property) component {
	purl := "pkg:golang/" + name + "@" + strings.ReplaceAll(version, "+", "%2B")
	return component{Ref: purl, Type: kind, Name: name, Version: version, PURL: purl, Properties: properties}
}
