package lab

// The owner of a lab and the init of each host speak over one socket of
// sequenced packets: a request or a reply is one JSON packet, and a request to
// start a process carries its standard streams as file descriptors.

// controlFD is where an init finds its end of the socket.
const controlFD = 3

// maxPacket bounds one request or reply; a longer command line is refused.
const maxPacket = 64 << 10

const (
	opSpawn  = "spawn"  // start Argv; answered at once, and again when it ends
	opSignal = "signal" // send Signal to Pid, or to its group if negative
)

type request struct {
	Seq    uint64   `json:"seq"`
	Op     string   `json:"op"`
	Argv   []string `json:"argv,omitempty"`
	Env    []string `json:"env,omitempty"`
	Pid    int      `json:"pid,omitempty"`
	Signal int      `json:"signal,omitempty"`
}

// A reply answers the request of the same sequence; sequence 0 is the init's
// word that the host is up, or why it is not.
type reply struct {
	Seq   uint64 `json:"seq"`
	Pid   int    `json:"pid,omitempty"`
	Ended bool   `json:"ended,omitempty"`
	Code  int    `json:"code,omitempty"` // 128 + signal for a killed process
	Err   string `json:"err,omitempty"`
}

// A spec is what an init must know to make a process tree into a host.
type spec struct {
	Name    string   `json:"name"`    // the hostname
	Dir     string   `json:"dir"`     // the host's directory, as the owner sees it
	Bin     string   `json:"bin"`     // what becomes BinDir
	Link    string   `json:"link"`    // the end of the wire, to become eth0
	Address string   `json:"address"` // in CIDR form
	Gateway string   `json:"gateway"`
	Cgroups []cgroup `json:"cgroups"`
}
