// Command release builds a release: an archive for every platform, a bill of materials for
// each, and their checksums. The same source, version and Go give the same bytes, wherever and
// whenever they are built.
//
//	go run ./deploy/release -version v1.2.3 -out dist
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const module = "github.com/Focinfi/oncekv"

// A platform is a pair of GOOS and GOARCH.
type platform struct{ os, arch string }

var platforms = []platform{{"darwin", "arm64"}, {"linux", "amd64"}, {"linux", "arm64"}}

func main() {
	version := flag.String("version", "", "the release, such as v1.2.3")
	out := flag.String("out", "dist", "directory to write to")
	flag.Parse()
	if err := run(*version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

var versions = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`) // becomes part of file names and linker flags

func run(version, out string) error {
	if !versions.MatchString(version) {
		return fmt.Errorf("-version %q: write it like v1.2.3", version)
	}
	root, err := output("", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var sums []string
	for _, p := range platforms {
		files, err := release(strings.TrimSpace(root), version, p)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", p.os, p.arch, err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(out, f.name), f.data, 0o644); err != nil {
				return err
			}
			sums = append(sums, fmt.Sprintf("%x  %s\n", sha256.Sum256(f.data), f.name))
		}
	}
	slices.SortFunc(sums, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(strings.Join(sums, "")), 0o644)
}

// release returns the files of one platform.
func release(root, version string, p platform) ([]file, error) {
	binary, info, err := build(root, version, p)
	if err != nil {
		return nil, err
	}
	notices, err := notices(root, info)
	if err != nil {
		return nil, err
	}
	materials, err := billOfMaterials(version, p, info)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("oncekv-%s-%s-%s", version, p.os, p.arch)
	content := []file{{"oncekv", 0o755, binary}, {"THIRD_PARTY_NOTICES", 0o644, notices}}
	for _, f := range []string{"LICENSE", "README.md", "docs/install.md", "systemd/oncekv@.service", "systemd/oncekv-cache@.service", "systemd/oncekv-admin.service", "systemd/n1.env", "systemd/c1.env", "systemd/admin.env"} {
		path := filepath.Join(root, f)
		if strings.HasPrefix(f, "systemd/") {
			path = filepath.Join(root, "deploy", f)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		content = append(content, file{f, 0o644, data})
	}
	archive, err := archive(name, content)
	if err != nil {
		return nil, err
	}
	return []file{{name + ".tar.gz", 0o644, archive}, {name + ".cdx.json", 0o644, materials}}, nil
}

// build returns the program and what the linker wrote into it. It ignores settings in the
// caller's environment that would change the bytes.
func build(root, version string, p platform) ([]byte, *buildinfo.BuildInfo, error) {
	dir, err := os.MkdirTemp("", "oncekv-release-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "oncekv")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", "-s -w -buildid= -X "+module+"/internal/version.release="+version, "-o", path, "./cmd/oncekv")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch,
		"GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("%w\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	data, err := os.ReadFile(path)
	return data, info, err
}

// notices returns the licenses of everything in the program, which must accompany it.
func notices(root string, info *buildinfo.BuildInfo) ([]byte, error) {
	goroot, err := output("", "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := licenses(&b, "Go "+info.GoVersion, strings.TrimSpace(goroot)); err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			return nil, fmt.Errorf("%s is replaced; a release has none of that", m.Path)
		}
		dir, err := output(root, "go", "list", "-m", "-f", "{{.Dir}}", m.Path)
		if err != nil {
			return nil, err
		}
		if err := licenses(&b, m.Path+" "+m.Version, strings.TrimSpace(dir)); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

var licenseFile = regexp.MustCompile(`(?i)^(licen[sc]e|copying|notice|patents)`)

func licenses(b *bytes.Buffer, name, dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if e.IsDir() || !licenseFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "==== %s: %s\n\n%s\n\n", name, e.Name(), bytes.TrimSpace(text))
		found = true
	}
	if !found {
		return fmt.Errorf("%s has no license in %s", name, dir)
	}
	return nil
}

// output runs a command in dir, or in the current directory.
func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("%s %v: %w\n%s", name, args, err, exit.Stderr)
	}
	return string(out), err
}
