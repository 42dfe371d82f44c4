package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// The users of the embedded engine. The in-process user "default" may open the
// listeners and nothing else: it has no password and comes from 127.0.0.1.
const (
	WriterUser  = "tacho"
	AnalystUser = "analyst"
)

var serverConfig = template.Must(template.New("config").Parse(`<clickhouse>
    <logger>
        <level>warning</level>
        <log>{{.Log}}</log>
        <size>10M</size>
        <count>3</count>
    </logger>
    <users_config>{{.Users}}</users_config>
    <max_server_memory_usage>{{.Memory}}</max_server_memory_usage>
    <mark_cache_size>268435456</mark_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <background_pool_size>4</background_pool_size>
    <background_schedule_pool_size>8</background_schedule_pool_size>
    <max_concurrent_queries>100</max_concurrent_queries>
    <merge_tree>
        <fsync_after_insert>{{if .Sync}}1{{else}}0{{end}}</fsync_after_insert>
        <fsync_part_directory>{{if .Sync}}1{{else}}0{{end}}</fsync_part_directory>
    </merge_tree>
</clickhouse>
`))

// The analyst reads. readonly=2 lets clients send their settings; the limits
// keep one query from starving the writer.
var usersConfig = template.Must(template.New("users").Parse(`<clickhouse>
    <profiles>
        <default/>
        <writer>
            <async_insert>0</async_insert>
        </writer>
        <analyst>
            <readonly>2</readonly>
            <max_memory_usage>{{.AnalystMemory}}</max_memory_usage>
            <max_execution_time>300</max_execution_time>
            <max_threads>2</max_threads>
            <constraints>
                <max_memory_usage><max>{{.AnalystMemory}}</max></max_memory_usage>
                <max_execution_time><max>3600</max></max_execution_time>
            </constraints>
        </analyst>
    </profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT SYSTEM LISTEN ON *.*</query></grants>
        </default>
        <{{.Writer}}>
            <password_sha256_hex>{{.WriterHash}}</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>writer</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE ON {{.Database}}.*</query>
                <query>GRANT SELECT ON system.*</query>
                <query>GRANT KILL QUERY ON *.*</query>
                <query>GRANT TABLE ENGINE ON *</query>
                <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
                <query>GRANT SYSTEM MERGES, SYSTEM SYNC REPLICA ON *.*</query>
            </grants>
        </{{.Writer}}>
        <{{.Analyst}}>
            <password_sha256_hex>{{.AnalystHash}}</password_sha256_hex>
            <networks><ip>::/0</ip></networks>
            <profile>analyst</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT SELECT ON {{.Database}}.*</query>
                <query>GRANT SELECT ON system.tables</query>
                <query>GRANT SELECT ON system.columns</query>
                <query>GRANT SELECT ON system.databases</query>
                <query>GRANT SELECT ON system.parts</query>
                <query>GRANT SELECT ON system.functions</query>
                <query>GRANT SELECT ON system.numbers</query>
                <query>GRANT CREATE TEMPORARY TABLE ON *.*</query>
            </grants>
            <databases>
                <{{.Database}}>
                    <events><filter>kind != 'credential'</filter></events>
                </{{.Database}}>
            </databases>
        </{{.Analyst}}>
    </users>
</clickhouse>
`))

// writeConfig writes the engine's configuration, hashes only, and returns its path.
func (c *Config) writeConfig() (string, error) {
	path, users := filepath.Join(c.Dir, "config.xml"), filepath.Join(c.Dir, "users.xml")
	values := map[string]any{
		"Log": filepath.Join(c.Dir, "clickhouse.log"), "Users": users, "Memory": c.Memory, "AnalystMemory": c.Memory / 2,
		"Writer": WriterUser, "WriterHash": sha256Hex(c.WriterPassword), "Database": c.Database,
		"Analyst": AnalystUser, "AnalystHash": sha256Hex(c.AnalystPassword), "Sync": c.Sync,
	}
	for file, t := range map[string]*template.Template{path: serverConfig, users: usersConfig} {
		var b strings.Builder
		if err := t.Execute(&b, values); err != nil {
			return "", fmt.Errorf("render %s: %w", filepath.Base(file), err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			return "", fmt.Errorf("write engine configuration: %w", err)
		}
	}
	return path, nil
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
