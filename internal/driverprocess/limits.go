//go:build linux

package driverprocess

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// limits bound a sandbox's use of the machine; 0 sets no bound.
type limits struct {
	CPUMillis   int64 `json:"cpu_millis,omitempty"`
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	Processes   int64 `json:"processes,omitempty"`
}

// values are the limits in the order of limitedBy.
func (l limits) values() [3]int64 { return [3]int64{l.CPUMillis, l.MemoryBytes, l.Processes} }

type setting struct{ controller, file, value string }

const cpuPeriod = 100_000 // microseconds

// settings are the control files to write, in order, for either version of control groups.
func (l limits) settings(unified bool) []setting {
	number := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	// The kernel takes no quota under a millisecond.
	quota := number(0)
	if l.CPUMillis > 0 {
		quota = number(max(l.CPUMillis*cpuPeriod/1000, 1000))
	}
	pids := setting{"pids", "pids.max", number(l.Processes)}
	if !unified {
		return []setting{
			{"cpu", "cpu.cfs_quota_us", quota},
			{"memory", "memory.limit_in_bytes", number(l.MemoryBytes)},
			pids,
		}
	}
	if quota != "" {
		quota += " " + strconv.Itoa(cpuPeriod)
	}
	return []setting{{"cpu", "cpu.max", quota}, {"memory", "memory.max", number(l.MemoryBytes)}, pids}
}

var quantity = regexp.MustCompile(`^([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$`)

// parseQuantity reads a quantity as Kubernetes writes them, such as "500m", "2", "1.5Gi" or "512M", and
// returns it in thousandths, rounded up.
func parseQuantity(s string) (int64, error) {
	m := quantity.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, fmt.Errorf("%q is no quantity such as 500m, 2 or 512Mi", s)
	}
	value, ok := new(big.Rat).SetString(m[1])
	if !ok {
		return 0, fmt.Errorf("%q is no number", m[1])
	}
	if m[2] != "m" {
		value.Mul(value, big.NewRat(1000, 1))
	}
	if m[2] != "" && m[2] != "m" {
		base := int64(1000)
		if strings.HasSuffix(m[2], "i") {
			base = 1024
		}
		power := int64(strings.Index("kMGTP", strings.ToUpper(m[2][:1])))
		if m[2][0] == 'k' || m[2][0] == 'K' {
			power = 0
		}
		factor := new(big.Int).Exp(big.NewInt(base), big.NewInt(power+1), nil)
		value.Mul(value, new(big.Rat).SetInt(factor))
	}
	up := new(big.Int).Add(value.Num(), new(big.Int).Sub(value.Denom(), big.NewInt(1)))
	up.Div(up, value.Denom())
	if !up.IsInt64() {
		return 0, fmt.Errorf("%q is out of range", s)
	}
	return up.Int64(), nil
}
