const data = JSON.parse(document.getElementById("data").textContent);
const key = "ratings " + data.run, ratings = {...data.given, ...JSON.parse(localStorage.getItem(key) || "{}")};
const inputs = document.querySelectorAll("input[type=radio]");
function show() {
  const total = new Set([...inputs].map(one => one.name)).size;
  document.getElementById("count").textContent = `${Object.keys(ratings).length} of ${total} rated`;
}
inputs.forEach(one => {
  one.checked = ratings[one.name] === one.value;
  one.addEventListener("change", () => {
    ratings[one.name] = one.value; localStorage.setItem(key, JSON.stringify(ratings)); show();
  });
});
document.getElementById("download").addEventListener("click", () => {
  const lines = Object.entries(ratings).map(([id, rating]) => JSON.stringify({id: JSON.parse(id), rating}) + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
  link.download = "ratings.jsonl"; link.click();
});
show();
