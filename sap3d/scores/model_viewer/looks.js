// The buttons beneath a <model-viewer>: its mesh in its colours, as a wireframe, or coloured by its normals.
(() => {
  // model-viewer has no such looks, so its three.js scene is asked for; the version is pinned.
  const sceneOf = (viewer) => viewer[Object.getOwnPropertySymbols(viewer).find((key) => key.description === 'scene')];

  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);

  // Normals of the world as colours, (n + 1) / 2, in the place of the vertices' own.
  function colourByNormals(geometry) {
    if (!geometry.attributes.normal) geometry.computeVertexNormals();
    const colours = geometry.attributes.normal.clone();
    for (let i = 0; i < colours.array.length; i++) colours.array[i] = linear((colours.array[i] + 1) / 2);
    geometry.setAttribute('color', colours);
  }

  function show(viewer, look) {
    const scene = sceneOf(viewer);
    scene.traverse((mesh) => {
      if (!mesh.isMesh || !mesh.geometry.attributes.position || !mesh.visible) return;
      const material = mesh.material;
      if (!material.userData.own) {
        material.userData.own = { map: material.map, vertexColors: material.vertexColors, color: material.color?.clone(),
                                  colours: mesh.geometry.attributes.color };
      }
      const own = material.userData.own;
      const normals = look === 'normals';
      material.wireframe = look === 'wireframe';
      material.map = normals ? null : own.map;
      material.vertexColors = normals || own.vertexColors;
      if (normals) material.color?.set(0xffffff); else if (own.color) material.color.copy(own.color);
      if (normals) colourByNormals(mesh.geometry);
      else if (own.colours) mesh.geometry.setAttribute('color', own.colours);
      material.needsUpdate = true;
    });
    scene.queueRender();
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-look]');
    if (!button) return;
    const frame = button.closest('.mesh-viewer');
    for (const other of frame.querySelectorAll('[data-look]')) other.setAttribute('aria-pressed', other === button);
    show(frame.querySelector('model-viewer'), button.dataset.look);
  });
})();
