//go:build tools

// Package servers pins the real programs that the tests of Meshwork run against.
package servers

import (
	_ "github.com/summerwind/h2spec/cmd/h2spec"
)
