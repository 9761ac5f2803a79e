package deploy_test

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	containerfile = "container/Containerfile"
	testVersion   = "v0.0.0-test"
)

// instruction is one line of the Containerfile: COPY and the rest.
type instruction struct{ word, rest string }

func instructions() ([]instruction, error) {
	b, err := os.ReadFile(containerfile)
	if err != nil {
		return nil, err
	}
	var list []instruction
	for line := range strings.Lines(string(b)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if word != "" && !strings.HasPrefix(word, "#") {
			list = append(list, instruction{word, rest})
		}
	}
	return list, nil
}

// all returns the rest of every line with this word.
func all(t *testing.T, word string) []string {
	t.Helper()
	list, err := instructions()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, i := range list {
		if i.word == word {
			found = append(found, i.rest)
		}
	}
	return found
}

// buildAsContainer runs the Containerfile's own build command here.
func buildAsContainer(path, version string) error {
	list, err := instructions()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(i instruction) bool { return i.word == "RUN" && strings.Contains(i.rest, "go build") })
	if i < 0 || !strings.Contains(list[i].rest, " -o /out/oncekv ") {
		return fmt.Errorf("%s does not build /out/oncekv", containerfile)
	}
	cmd := exec.Command("sh", "-c", strings.Replace(list[i].rest, "/out/oncekv", path, 1))
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build as in %s: %w\n%s", containerfile, err, out)
	}
	return nil
}

// The last image has no libc, so the binary must not need one.
func TestContainer_StaticBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks at an ELF file")
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) > 0 {
		t.Errorf("it needs %v, %v", libs, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a dynamic loader")
		}
	}
	out, err := exec.Command(binary, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "oncekv "+testVersion+" go") {
		t.Errorf("version: %q, %v", out, err)
	}
}

// Every COPY has its source: in the repository and not ignored, or made by the first stage.
func TestContainer_CopySources(t *testing.T) {
	var ignored []string
	for s := bufio.NewScanner(strings.NewReader(text(t, "../.dockerignore"))); s.Scan(); {
		ignored = append(ignored, s.Text())
	}
	made := strings.Join(all(t, "RUN"), "\n") + "\n"
	for _, c := range all(t, "COPY") {
		words := strings.Fields(c)
		sources := slices.DeleteFunc(words[:len(words)-1], func(s string) bool { return strings.HasPrefix(s, "--") })
		for _, s := range sources {
			if strings.Contains(c, "--from=build") {
				if !strings.Contains(made, "-o "+s+" ") && !strings.Contains(made, "mkdir "+s+"\n") {
					t.Errorf("COPY %s: the first stage does not make %s", c, s)
				}
				continue
			}
			if _, err := os.Stat(filepath.Join("..", s)); err != nil || slices.Contains(ignored, s) {
				t.Errorf("COPY %s: %v; ignored: %v", c, err, ignored)
			}
		}
	}
}

// The first stage has the Go version of go.mod.
func TestContainer_GoVersion(t *testing.T) {
	image := strings.Fields(all(t, "FROM")[0])[0]
	_, tag, _ := strings.Cut(image, ":")
	if !strings.Contains(text(t, "../go.mod"), "\ngo "+tag+".") {
		t.Errorf("%s is not the Go of go.mod", image)
	}
}

// The default command runs a store in the volume.
func TestContainer_DefaultCommand(t *testing.T) {
	var entry, args []string
	for word, to := range map[string]*[]string{"ENTRYPOINT": &entry, "CMD": &args} {
		if err := json.Unmarshal([]byte(all(t, word)[0]), to); err != nil {
			t.Fatal(err)
		}
	}
	if len(entry) != 1 || !slices.ContainsFunc(all(t, "COPY"), func(c string) bool { return strings.HasSuffix(c, " /out/oncekv "+entry[0]) }) {
		t.Errorf("the entry point %v is not where the binary is", entry)
	}
	env, volume := all(t, "ENV"), all(t, "VOLUME")[0]
	if !slices.Contains(env, "ONCEKV_DATA_DIR="+volume) {
		t.Errorf("environment %v does not put the data into %s", env, volume)
	}
	f := &fleet{t: t, addrs: map[string]string{}}
	p := f.process(described{host: "127.0.0.1", args: args, dataDir: volume,
		env: append(env, "ONCEKV_LISTEN=127.0.0.1:11000", "ONCEKV_PEER_LISTEN=127.0.0.1:12000")}) // else the default ports
	p.Start()
	p.WaitReady()
	if s, err := p.Stats(); err != nil || s.Role != "leader" {
		t.Errorf("%+v, %v", s, err)
	}
	if code, _ := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
