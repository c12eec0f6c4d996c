// Package shm holds the regions that buses live in.
package shm
