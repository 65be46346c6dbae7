package report

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// measuring is added to a copy of a page, whose policy against scripts is taken
// out: it opens what is folded, and tells of whatever sticks out of the screen or
// of its drawing, or is too small to read.
const measuring = `<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const say = (...a) => console.log("LAYOUT", innerWidth, ...a), root = document.documentElement;
  let bad = 0;
  const complain = (...a) => { if (bad++ < 10) say("bad:", ...a) };
  if (root.scrollWidth > innerWidth) complain("the page is", root.scrollWidth, "wide");
  document.querySelectorAll("body *").forEach(e => {
    if (e.closest(".scroll") || e.closest("svg")) return;
    const r = e.getBoundingClientRect();
    if (r.right > innerWidth + 1 || r.left < -1) complain(e.tagName, "from", r.left, "to", r.right);
  });
  let least = 99;
  document.querySelectorAll("svg").forEach(s => {
    const box = s.getBoundingClientRect(), scale = box.width / s.viewBox.baseVal.width;
    s.querySelectorAll("text").forEach(t => {
      const r = t.getBoundingClientRect();
      least = Math.min(least, scale * parseFloat(getComputedStyle(t).fontSize));
      if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1)
        complain("text", JSON.stringify(t.textContent), "sticks out of", JSON.stringify(s.querySelector("title").textContent));
    });
  });
  if (least < 8) complain("text of", least, "pixels");
  say("dark", matchMedia("(prefers-color-scheme: dark)").matches, "complaints", bad, "charts", document.querySelectorAll("svg").length);
})</script></body>`

// policy is the page's own rule against scripts and loading.
var policy = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>`)

// TestBrowser opens the sample page, and the pages that LATENT_CHECK_PAGES lists,
// in Chromium without a network, at 400 and at 1,400 pixels, light and dark.
// Nothing may be reported on the console, and nothing may stick out. Without
// Chromium it is skipped, unless LATENT_REQUIRE_CHROMIUM is set. Pictures go to
// the folder LATENT_SCREENSHOTS, if that is set.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("LATENT_REQUIRE_CHROMIUM") != "" {
			t.Fatal(err)
		}
		t.Skip("there is no chromium")
	}
	pages := map[string]string{"sample": write(t, sample())}
	for _, path := range filepath.SplitList(os.Getenv("LATENT_CHECK_PAGES")) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages[strings.TrimSuffix(filepath.Base(path), ".html")] = string(data)
	}
	for name, page := range pages {
		if found := references(t, page); len(found) > 0 {
			t.Errorf("%s has %q", name, found)
		}
		if !policy.MatchString(page) {
			t.Errorf("%s has no rule against scripts", name)
		}
		for _, dark := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/dark=%v", name, dark), func(t *testing.T) { browse(t, chromium, name, page, dark) })
		}
	}
}

// browse opens a page and its measured copy side by side in frames of both
// widths, of which Chromium's own window could not be the narrow one.
func browse(t *testing.T, chromium, name, page string, dark bool) {
	dir := t.TempDir()
	const height = 6000
	all := `<!DOCTYPE html><body style="margin:0;display:flex">`
	for _, file := range []string{"page.html", "measure.html"} {
		for _, width := range widths {
			all += fmt.Sprintf(`<iframe src="%s" style="border:0;flex:none;width:%dpx;height:%dpx"></iframe>`, file, width, height)
		}
	}
	for file, text := range map[string]string{
		"page.html":    page,
		"measure.html": strings.Replace(policy.ReplaceAllString(page, ""), "</body>", measuring, 1),
		"all.html":     all + "</body>",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	picture := filepath.Join(dir, "picture.png")
	if folder := os.Getenv("LATENT_SCREENSHOTS"); folder != "" {
		picture = filepath.Join(folder, fmt.Sprintf("%s-dark=%v.png", name, dark))
	}
	scheme := 1
	if dark {
		scheme = 0
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--enable-logging=stderr", "--hide-scrollbars", fmt.Sprintf("--blink-settings=preferredColorScheme=%d", scheme),
		fmt.Sprintf("--window-size=%d,%d", widths[0]+widths[1], height), "--screenshot="+picture, "file://"+filepath.Join(dir, "all.html"))
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if info, err := os.Stat(picture); err != nil || info.Size() < 1000 {
		t.Errorf("no picture: %v", err)
	}
	var told strings.Builder
	for line := range strings.Lines(string(out)) {
		_, message, ok := strings.Cut(line, `:CONSOLE`)
		if !ok {
			continue
		}
		if _, layout, ok := strings.Cut(message, `"LAYOUT `); ok {
			told.WriteString(layout)
			continue
		}
		t.Errorf("on the console: %s", line)
	}
	for _, width := range widths {
		if want := fmt.Sprintf("%d dark %v complaints 0 ", width, dark); !strings.Contains(told.String(), want) {
			t.Errorf("measured:\n%swant %s", told.String(), want)
		}
	}
}

// widths of screens.
var widths = [2]int{400, 1400}
