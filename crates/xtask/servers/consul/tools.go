//go:build tools

// Package servers pins the real servers that the tests of Meshwork run against.
package servers

import (
	_ "github.com/hashicorp/consul"
)
