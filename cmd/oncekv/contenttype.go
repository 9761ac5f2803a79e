package main

import (
	"mime"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

const (
	contentTypeDefault = "application/octet-stream"
	contentTypeText    = "text/plain; charset=utf-8"
)

// typedContentType returns the content type of a typed value. It is the same as that of POST
// /key for text, so that a browser shows it.
func typedContentType(value string) string {
	if utf8.ValidString(value) {
		return contentTypeText
	}
	return contentTypeDefault
}

// contentTypeOf guesses a file's content type by its extension. Our own table comes first:
// most of what package mime knows depends on the machine, and a content type never changes.
func contentTypeOf(path string) string {
	ext := strings.ToLower(filepath.Ext(path))
	if t := ownContentType(ext); t != "" {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return contentTypeDefault
}

func ownContentType(ext string) string {
	switch ext {
	case ".mod", ".sum", ".ziphash", ".txt", ".log", ".go", ".proto", ".sh", ".py", ".rs", ".c", ".h", ".ts", ".conf", ".ini":
		return contentTypeText
	case ".md":
		return "text/markdown; charset=utf-8"
	case ".csv":
		return "text/csv; charset=utf-8"
	case ".info", ".json", ".map":
		return "application/json"
	case ".yaml", ".yml":
		return "application/yaml"
	case ".toml":
		return "application/toml"
	case ".zip", ".whl", ".nupkg":
		return "application/zip"
	case ".jar", ".war":
		return "application/java-archive"
	case ".tar":
		return "application/x-tar"
	case ".gz", ".tgz":
		return "application/gzip"
	case ".bz2":
		return "application/x-bzip2"
	case ".xz":
		return "application/x-xz"
	case ".zst":
		return "application/zstd"
	case ".deb":
		return "application/vnd.debian.binary-package"
	case ".rpm":
		return "application/x-rpm"
	case ".woff", ".woff2":
		return "font/" + ext[1:]
	case ".mp4", ".webm":
		return "video/" + ext[1:]
	}
	return ""
}
